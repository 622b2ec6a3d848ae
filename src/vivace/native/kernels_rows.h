// What is done to one row at a time: norms, activations, logits. Part of kernels_generic.h, which says where it is included.

template <class Body>
inline void for_lanes(int size, Body body) {
  for (int i = 0; i < size; i += lanes) body(i, smaller(lanes, size - i));
}

void rms_norm(const float* x, const float* weight, int size, float epsilon, float* out) {
  Floats squares = zero();
  for_lanes(size, [&](int i, int count) {
    const Floats value = load_first(x + i, count);
    squares = fma(value, value, squares);
  });
  const Floats scale = broadcast(1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(size) + epsilon));
  for_lanes(size, [&](int i, int count) {
    store_first(out + i, load_first(x + i, count) * scale * load_first(weight + i, count), count);
  });
}

void layer_norm(const float* x, const float* weight, const float* bias, int size, float epsilon, float* out) {
  Floats total = zero();
  for_lanes(size, [&](int i, int count) { total = total + load_first(x + i, count); });
  const float mean = sum(total) / static_cast<float>(size);
  float variance = 0;
  for (int i = 0; i < size; i++) variance += (x[i] - mean) * (x[i] - mean);
  const float scale = 1.0f / __builtin_sqrtf(variance / static_cast<float>(size) + epsilon);
  for (int i = 0; i < size; i++) out[i] = (x[i] - mean) * scale * weight[i] + (bias ? bias[i] : 0.0f);
}

void activate(Activation activation, const float* gate, const float* up, int size, std::ptrdiff_t in_stride, float* out) {
  for_lanes(size, [&](int i, int count) {
    const std::ptrdiff_t in = i / lanes * in_stride;
    Floats value = apply(activation, load_first(gate + in, count));
    if (up) value = value * load_first(up + in, count);
    store_first(out + i, value, count);
  });
}

int argmax(const float* values, int size) {
  Floats best = broadcast(-__builtin_inff());
  int i = 0;
  for (; i + lanes <= size; i += lanes) best = max(best, load(values + i));
  float top = largest(best);
  for (; i < size; i++) top = values[i] > top ? values[i] : top;
  for (int j = 0; j < size; j++)
    if (values[j] == top) return j;
  return 0;  // every value is NaN
}

double exponentials(const float* values, int size, float shift, float scale, float* out) {
  double total = 0;
  const Floats minus = broadcast(shift), factor = broadcast(scale);
  for_lanes(size, [&](int i, int count) {
    const Floats value = exponential((load_first(values + i, count) - minus) * factor);
    store_first(out + i, value, count);
    for (int j = 0; j < count; j++) total += out[i + j];
  });
  return total;
}

float sum_floats(const float* values, std::size_t size) {
  Floats totals[8];  // independent, so that additions do not wait for each other
  for (Floats& total : totals) total = zero();
  for (std::size_t i = 0; i < size; i += 8 * lanes)
    for (int j = 0; j < 8; j++) totals[j] = totals[j] + load(values + i + j * lanes);
  for (int j = 1; j < 8; j++) totals[0] = totals[0] + totals[j];
  return sum(totals[0]);
}
