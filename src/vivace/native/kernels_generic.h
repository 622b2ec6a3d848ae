// Every kernel once, written over the sixteen lanes of a simd_*.h. Each kernels_*.cpp includes a simd_*.h and then this
// file inside its own anonymous namespace, so no two instruction sets can share a symbol. No standard library here:
// its inline functions would be compiled for one instruction set and linked into all.

// How far ahead of a row's product its weights are fetched: further than a page, which the hardware does not cross alone.
constexpr int prefetch_bytes = 4096;
inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }

// repeat<N>(body) calls body(0) to body(N - 1), each number a constant of its own type, all of it inlined at once: an
// array of registers that a loop indexes is kept in memory by the compiler, however short the loop.
template <int I>
struct Constant {
  constexpr operator int() const { return I; }
};
#define INLINE __attribute__((always_inline))
template <int N, class Body>
INLINE inline void repeat(Body body) {
  if constexpr (N > 0) {
    repeat<N - 1>(body);
    body(Constant<N - 1>{});
  }
}

constexpr int smaller(int a, int b) { return a < b ? a : b; }

// ---------------------------------------------------------------------------------------------------------------
// Elementary functions

// e^x to about 2 units in the last place; 0 below -87. Range reduction to |r| <= ln(2)/2, then a Taylor-like polynomial
// (coefficients of Cephes' expf, Moshier).
inline Floats exponential(Floats x) {
  const Floats clamped = min(max(x, broadcast(-87.0f)), broadcast(88.0f));
  const Floats n = round_to_even(clamped * broadcast(1.44269504088896341f));
  Floats r = fma(n, broadcast(-0.693359375f), clamped);
  r = fma(n, broadcast(2.12194440e-4f), r);
  Floats p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  p = fma(p, r * r, r) + broadcast(1.0f);
  return zero_where_below(scale_by_power_of_two(p, n), x, -87.0f);
}

inline Floats sigmoid(Floats x) { return broadcast(1.0f) / (broadcast(1.0f) + exponential(zero() - x)); }

// 1 - polynomial * e^(-x^2), error below 1.5e-7 (Abramowitz and Stegun 7.1.26).
inline Floats error_function(Floats x) {
  const Floats magnitude = absolute(x);
  const Floats t = broadcast(1.0f) / fma(magnitude, broadcast(0.3275911f), broadcast(1.0f));
  Floats p = broadcast(1.061405429f);
  p = fma(p, t, broadcast(-1.453152027f));
  p = fma(p, t, broadcast(1.421413741f));
  p = fma(p, t, broadcast(-0.284496736f));
  p = fma(p, t, broadcast(0.254829592f));
  const Floats tail = p * t * exponential(zero() - magnitude * magnitude);
  return copy_sign(broadcast(1.0f) - tail, x);
}

inline Floats apply(Activation activation, Floats x) {
  if (activation == Activation::silu) return x * sigmoid(x);
  if (activation == Activation::gelu)
    return broadcast(0.5f) * x * (broadcast(1.0f) + error_function(x * broadcast(0.70710678118654752f)));
  // tanh(y) = 2 sigmoid(2y) - 1, so 0.5 x (1 + tanh(y)) = x sigmoid(2y)
  const Floats y = x * fma(x * x, broadcast(0.044715f * 0.7978845608028654f), broadcast(0.7978845608028654f));
  return x * sigmoid(y + y);
}

// ---------------------------------------------------------------------------------------------------------------
// Linear layers

// Writes Rows x Blocks totals, after adding the bias and, if asked, what `out` holds.
template <int Rows, int Blocks>
inline void write_tile(Floats (&total)[Rows][Blocks], const LinearWeights& w, int block, const LinearTile& tile, int row) {
  repeat<Rows>([&](auto r) INLINE {
    float* out = tile.out + (row + r - tile.first_row) * tile.out_stride + (block - tile.first_block) * lanes;
    for (int b = 0; b < Blocks; b++, out += lanes) {
      Floats value = total[r][b];
      if (w.bias) value = value + load(w.bias + (block + b) * lanes);
      const int outputs = smaller(lanes, w.outputs - (block + b) * lanes);
      if (outputs == lanes) {
        store(out, tile.accumulate ? load(out) + value : value);
      } else {
        store_first(out, tile.accumulate ? load_first(out, outputs) + value : value, outputs);
      }
    }
  });
}

template <class Weight, int Rows, int Blocks>
void multiply_float_block(const LinearWeights& w, const Activations& x, const LinearTile& tile, int block, int row) {
  const std::ptrdiff_t block_size = static_cast<std::ptrdiff_t>(w.padded_inputs) * lanes;
  const Weight* weights = static_cast<const Weight*>(w.weights) + block * block_size;
  const float* values = x.values + row * x.value_stride;
  Floats total[Rows][Blocks];
  repeat<Rows>([&](auto r) INLINE {
    repeat<Blocks>([&](auto b) INLINE { total[r][b] = zero(); });
  });
  for (int k = 0; k < w.inputs; k++) {
    Floats column_weights[Blocks];
    repeat<Blocks>([&](auto b) INLINE { column_weights[b] = load(weights + b * block_size + k * lanes); });
    repeat<Rows>([&](auto r) INLINE {
      const Floats value = broadcast(values[r * x.value_stride + k]);
      repeat<Blocks>([&](auto b) INLINE { total[r][b] = fma(value, column_weights[b], total[r][b]); });
    });
  }
  write_tile(total, w, block, tile, row);
}

// Adds the inputs that quantize_row left in float. weight(block, input) gives sixteen outputs' weights.
template <int Rows, int Blocks, class Weight>
inline void add_outliers(Floats (&total)[Rows][Blocks], const Activations& x, int row, Weight weight) {
  repeat<Rows>([&](auto r) INLINE {
    const std::int32_t* inputs = x.outlier_inputs + static_cast<std::ptrdiff_t>(row + r) * max_outliers;
    const float* values = x.outlier_values + static_cast<std::ptrdiff_t>(row + r) * max_outliers;
    for (int i = 0; i < x.outliers[row + r]; i++)
      repeat<Blocks>([&](auto b) INLINE { total[r][b] = fma(broadcast(values[i]), weight(b, inputs[i]), total[r][b]); });
  });
}

inline std::int32_t sum_codes(const Activations& x, int row, int first, int end) {
  const std::int32_t* sums = x.sums + row * x.sum_stride;
  std::int32_t total = 0;
  for (int k = first; k < end; k += sum_group) total += sums[k / sum_group];
  return total;
}

template <int Rows, int Blocks>
void multiply_int8_block(const LinearWeights& w, const Activations& x, const LinearTile& tile, int block, int row) {
  const std::ptrdiff_t block_size = static_cast<std::ptrdiff_t>(w.padded_inputs) * lanes;
  const std::uint8_t* codes = static_cast<const std::uint8_t*>(w.weights) + block * block_size;
  const std::int8_t* inputs = x.codes + row * x.code_stride;
  Floats total[Rows][Blocks];
  repeat<Rows>([&](auto r) INLINE {
    repeat<Blocks>([&](auto b) INLINE { total[r][b] = zero(); });
  });
  for (int group = 0; group < w.padded_inputs; group += activation_group) {
    const int end = smaller(group + activation_group, w.padded_inputs);
    Ints acc[Rows][Blocks];
    repeat<Rows>([&](auto r) INLINE {
      const Ints start = dot_start(sum_codes(x, row + r, group, end));
      repeat<Blocks>([&](auto b) INLINE { acc[r][b] = start; });
    });
    for (int k = group; k < end; k += 4) {
      Codes four[Blocks];
      repeat<Blocks>([&](auto b) INLINE { four[b] = load_codes(codes + b * block_size + k * lanes); });
      repeat<Rows>([&](auto r) INLINE {
        repeat<Blocks>([&](auto b) INLINE { acc[r][b] = dot(acc[r][b], four[b], inputs + r * x.code_stride + k); });
      });
    }
    repeat<Rows>([&](auto r) INLINE {
      const Floats scale = broadcast(x.scales[(row + r) * x.scale_stride + group / activation_group]);
      repeat<Blocks>([&](auto b) INLINE { total[r][b] = fma(to_floats(acc[r][b]), scale, total[r][b]); });
    });
  }
  add_outliers(total, x, row, [&](int b, int k) {
    return column(load_codes(codes + b * block_size + k / 4 * 64), k % 4) - broadcast(128.0f);
  });
  repeat<Blocks>([&](auto b) INLINE {
    const Floats scale = load(w.scales + (block + b) * lanes);
    repeat<Rows>([&](auto r) INLINE { total[r][b] = total[r][b] * scale; });
  });
  write_tile(total, w, block, tile, row);
}

// One block of an int4 matrix.
struct Int4Groups {
  const std::uint8_t* codes;
  const std::uint16_t* scales;  // [count][16]
  const std::uint8_t* zeros;    // [count][16], or null where all are 8
  int count, group_size;

  Int4Groups(const LinearWeights& w, int block) : group_size(w.group_size) {
    count = (w.padded_inputs + w.group_size - 1) / w.group_size;
    codes = static_cast<const std::uint8_t*>(w.weights) + static_cast<std::ptrdiff_t>(w.padded_inputs) * lanes / 2 * block;
    scales = w.group_scales + static_cast<std::ptrdiff_t>(block) * count * lanes;
    zeros = w.group_zeros ? w.group_zeros + static_cast<std::ptrdiff_t>(block) * count * lanes : nullptr;
  }
  // What the sum over a group starts at, to undo its zeros.
  Ints start(int group, std::int32_t code_sum) const {
    return zeros ? multiply_bytes(zeros + group * lanes, -code_sum) : broadcast_int(-8 * code_sum);
  }
  // Of one input, as floats.
  Floats weights(int input) const {
    const Codes both = load_codes(codes + input / 8 * 64);
    const int group = input / group_size;
    const Floats offset = zeros ? to_floats(multiply_bytes(zeros + group * lanes, 1)) : broadcast(8.0f);
    return (column(input % 8 < 4 ? low_nibbles(both) : high_nibbles(both), input % 4) - offset) * load(scales + group * lanes);
  }
};

template <int Rows, int Blocks>
void multiply_int4_block(const LinearWeights& w, const Activations& x, const LinearTile& tile, int block, int row) {
  const std::ptrdiff_t block_size = static_cast<std::ptrdiff_t>(w.padded_inputs) * lanes / 2;
  const Int4Groups first_groups(w, block);
  const std::int8_t* inputs = x.codes + row * x.code_stride;
  Floats total[Rows][Blocks];
  repeat<Rows>([&](auto r) INLINE {
    repeat<Blocks>([&](auto b) INLINE { total[r][b] = zero(); });
  });
  for (int g = 0; g < first_groups.count; g++) {
    const int first = g * w.group_size, end = smaller(first + w.group_size, w.padded_inputs);
    Ints acc[Rows][Blocks];
    repeat<Rows>([&](auto r) INLINE {
      const std::int32_t code_sum = sum_codes(x, row + r, first, end);
      repeat<Blocks>([&](auto b) INLINE { acc[r][b] = first_groups.start(b * first_groups.count + g, code_sum); });
    });
    for (int k = first; k < end; k += 8) {
      Codes low[Blocks], high[Blocks];
      repeat<Blocks>([&](auto b) INLINE {
        const Codes both = load_codes(first_groups.codes + b * block_size + k * lanes / 2);
        low[b] = low_nibbles(both);
        high[b] = high_nibbles(both);
      });
      repeat<Rows>([&](auto r) INLINE {
        const std::int8_t* eight = inputs + r * x.code_stride + k;
        repeat<Blocks>([&](auto b) INLINE {
          acc[r][b] = dot_nibbles(dot_nibbles(acc[r][b], low[b], eight), high[b], eight + 4);
        });
      });
    }
    repeat<Blocks>([&](auto b) INLINE {
      const Floats scale = load(first_groups.scales + (b * first_groups.count + g) * lanes);
      repeat<Rows>([&](auto r) INLINE {
        const Floats both = scale * broadcast(x.scales[(row + r) * x.scale_stride + first / activation_group]);
        total[r][b] = fma(to_floats(acc[r][b]), both, total[r][b]);
      });
    });
  }
  add_outliers(total, x, row, [&](int b, int k) { return Int4Groups(w, block + b).weights(k); });
  write_tile(total, w, block, tile, row);
}

// One row: the weights are read once and in the order they lie in, which is all that counts. Sums of codes are exact in
// any order, so four of them run side by side and the row comes out as it does among others.
void multiply_int8_row(const LinearWeights& w, const Activations& x, const LinearTile& tile, int block, int row) {
  const std::ptrdiff_t block_size = static_cast<std::ptrdiff_t>(w.padded_inputs) * lanes;
  const std::uint8_t* codes = static_cast<const std::uint8_t*>(w.weights) + block * block_size;
  const std::int8_t* inputs = x.codes + row * x.code_stride;
  prefetch(w.scales + block * lanes);
  Floats total[1][1] = {{zero()}};
  for (int group = 0; group < w.padded_inputs; group += activation_group) {
    const int end = smaller(group + activation_group, w.padded_inputs);
    Ints acc[4] = {dot_start(sum_codes(x, row, group, end)), broadcast_int(0), broadcast_int(0), broadcast_int(0)};
    for (int k = group; k < end; k += 16)
      repeat<4>([&](auto i) INLINE {
        const std::uint8_t* four = codes + (k + 4 * i) * lanes;
        prefetch(four + prefetch_bytes);
        acc[i] = dot(acc[i], load_codes(four), inputs + k + 4 * i);
      });
    const Floats scale = broadcast(x.scales[row * x.scale_stride + group / activation_group]);
    total[0][0] = fma(to_floats((acc[0] + acc[1]) + (acc[2] + acc[3])), scale, total[0][0]);
  }
  add_outliers(total, x, row, [&](int, int k) {
    return column(load_codes(codes + k / 4 * 64), k % 4) - broadcast(128.0f);
  });
  total[0][0] = total[0][0] * load(w.scales + block * lanes);
  write_tile(total, w, block, tile, row);
}

void multiply_int4_row(const LinearWeights& w, const Activations& x, const LinearTile& tile, int block, int row) {
  const Int4Groups groups(w, block);
  const std::int8_t* inputs = x.codes + row * x.code_stride;
  Floats total[1][1] = {{zero()}};
  for (int g = 0; g < groups.count; g++) {
    const int first = g * w.group_size, end = smaller(first + w.group_size, w.padded_inputs);
    const std::uint16_t* scales = groups.scales + g * lanes;
    prefetch(scales + prefetch_bytes / 16);
    Ints acc[4] = {groups.start(g, sum_codes(x, row, first, end)), broadcast_int(0), broadcast_int(0), broadcast_int(0)};
    for (int k = first; k < end; k += 16)
      repeat<2>([&](auto i) INLINE {
        const std::uint8_t* eight = groups.codes + (k + 8 * i) * lanes / 2;
        prefetch(eight + prefetch_bytes);
        const Codes both = load_codes(eight);
        acc[2 * i] = dot_nibbles(acc[2 * i], low_nibbles(both), inputs + k + 8 * i);
        acc[2 * i + 1] = dot_nibbles(acc[2 * i + 1], high_nibbles(both), inputs + k + 8 * i + 4);
      });
    const Floats scale = load(scales) * broadcast(x.scales[row * x.scale_stride + first / activation_group]);
    total[0][0] = fma(to_floats((acc[0] + acc[1]) + (acc[2] + acc[3])), scale, total[0][0]);
  }
  add_outliers(total, x, row, [&](int, int k) { return groups.weights(k); });
  write_tile(total, w, block, tile, row);
}

using LinearBlock = void (*)(const LinearWeights&, const Activations&, const LinearTile&, int block, int row);

// Covers a tile with register blocks: the largest there are, then what is left over, with
// Block::template at<rows, blocks> computing rows x blocks.
template <class Block>
inline void cover(const LinearWeights& w, const Activations& x, const LinearTile& tile) {
  static constexpr LinearBlock table[6][4] = {
      {Block::template at<1, 1>, Block::template at<1, 2>, Block::template at<1, 3>, Block::template at<1, 4>},
      {Block::template at<2, 1>, Block::template at<2, 2>, Block::template at<2, 3>, Block::template at<2, 4>},
      {Block::template at<3, 1>, Block::template at<3, 2>, Block::template at<3, 3>, Block::template at<3, 4>},
      {Block::template at<4, 1>, Block::template at<4, 2>, Block::template at<4, 3>, Block::template at<4, 4>},
      {Block::template at<5, 1>, Block::template at<5, 2>, Block::template at<5, 3>, Block::template at<5, 4>},
      {Block::template at<6, 1>, Block::template at<6, 2>, Block::template at<6, 3>, Block::template at<6, 4>}};
  const int last_block = tile.first_block + tile.blocks, last_row = tile.first_row + tile.rows;
  if (tile.rows == 1) {
    for (int block = tile.first_block; block < last_block; block++) Block::row(w, x, tile, block, tile.first_row);
    return;
  }
  for (int block = tile.first_block; block < last_block; block += tile_blocks) {
    const int blocks = smaller(tile_blocks, last_block - block);
    for (int row = tile.first_row; row < last_row; row += tile_rows)
      table[smaller(tile_rows, last_row - row) - 1][blocks - 1](w, x, tile, block, row);
  }
}

template <class Weight>
struct FloatBlock {
  static constexpr LinearBlock row = multiply_float_block<Weight, 1, 1>;
  template <int Rows, int Blocks>
  static void at(const LinearWeights& w, const Activations& x, const LinearTile& tile, int block, int row) {
    multiply_float_block<Weight, smaller(Rows, tile_rows), smaller(Blocks, tile_blocks)>(w, x, tile, block, row);
  }
};
struct Int8Block {
  static constexpr LinearBlock row = multiply_int8_row;
  template <int Rows, int Blocks>
  static void at(const LinearWeights& w, const Activations& x, const LinearTile& tile, int block, int row) {
    multiply_int8_block<smaller(Rows, tile_rows), smaller(Blocks, tile_blocks)>(w, x, tile, block, row);
  }
};
struct Int4Block {
  static constexpr LinearBlock row = multiply_int4_row;
  template <int Rows, int Blocks>
  static void at(const LinearWeights& w, const Activations& x, const LinearTile& tile, int block, int row) {
    multiply_int4_block<smaller(Rows, tile_rows), smaller(Blocks, tile_blocks)>(w, x, tile, block, row);
  }
};

// An input is an outlier when it is more than this many times its group's mean magnitude: rare in a row that is not
// ruined by it, and then its group's step stays near an eighth of that mean.
constexpr float outlier_ratio = 16.0f;

struct GroupSize {
  float largest, mean;
};

inline GroupSize measure_group(const float* x, int size) {
  Floats largest_lane = zero(), total = zero();
  int i = 0;
  for (; i + lanes <= size; i += lanes) {
    const Floats magnitude = absolute(load(x + i));
    largest_lane = max(largest_lane, magnitude);
    total = total + magnitude;
  }
  if (i < size) {
    const Floats magnitude = absolute(load_first(x + i, size - i));
    largest_lane = max(largest_lane, magnitude);
    total = total + magnitude;
  }
  return {largest(largest_lane), sum(total) / static_cast<float>(size)};
}

// Lists the inputs of a group above `bound` and returns the largest of the others; lists none if there is no room.
inline float take_outliers(const float* x, int first, int size, float bound, int row, const Activations& out) {
  std::int32_t* inputs = out.outlier_inputs + static_cast<std::ptrdiff_t>(row) * max_outliers;
  float* values = out.outlier_values + static_cast<std::ptrdiff_t>(row) * max_outliers;
  int count = out.outliers[row];
  float largest_rest = 0;
  for (int i = 0; i < size; i++) {
    const float magnitude = __builtin_fabsf(x[i]);
    if (magnitude <= bound) {
      largest_rest = magnitude > largest_rest ? magnitude : largest_rest;
      continue;
    }
    if (count == max_outliers) return -1;
    inputs[count] = first + i;
    values[count++] = x[i];
  }
  out.outliers[row] = count;
  return largest_rest;
}

void quantize_row(const float* x, int inputs, int padded_inputs, int row, const Activations& out) {
  std::int8_t* codes = out.codes + row * out.code_stride;
  std::int32_t* sums = out.sums + row * out.sum_stride;
  float* scales = out.scales + row * out.scale_stride;
  out.outliers[row] = 0;
  for (int first = 0; first < padded_inputs; first += activation_group) {
    const int end = smaller(first + activation_group, padded_inputs), size = smaller(inputs, end) - first;
    const GroupSize measured = measure_group(x + first, size);
    float top = measured.largest;
    const int listed = out.outliers[row];
    if (top > outlier_ratio * measured.mean) {
      const float rest = take_outliers(x + first, first, size, outlier_ratio * measured.mean, row, out);
      if (rest >= 0) top = rest;
    }
    scales[first / activation_group] = top / 127.0f;
    const Floats inverse = broadcast(top > 0 ? 127.0f / top : 0.0f), bound = broadcast(127.0f);
    for (int k = first; k < end; k += sum_group) {
      std::int32_t code_sum = 0;
      for (int half = k; half < k + sum_group; half += lanes) {
        const int left = inputs - half;
        const Floats value = left >= lanes ? load(x + half) : load_first(x + half, left > 0 ? left : 0);
        code_sum += store_codes(codes + half, max(min(value * inverse, bound), zero() - bound));
      }
      sums[k / sum_group] = code_sum;
    }
    for (int i = listed; i < out.outliers[row]; i++) {
      const int k = out.outlier_inputs[static_cast<std::ptrdiff_t>(row) * max_outliers + i];
      sums[k / sum_group] -= codes[k];
      codes[k] = 0;
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Attention

inline const float* step(const float* p, std::ptrdiff_t n) { return p + n; }
inline const std::uint16_t* step(const std::uint16_t* p, std::ptrdiff_t n) { return p + n; }

// scores[q][t] = query q . key t for some blocks side by side, -infinity where q does not see t: each sum is one chain of additions, and a single one would
// leave the processor waiting for it.
template <class Element, int Queries, int Blocks>
inline void score_side_by_side(const AttentionTask& task, int first_query, int block, Floats (&highest_lane)[Queries]) {
  const Element* keys[Blocks];
  repeat<Blocks>([&](auto b) INLINE {
    keys[b] = step(static_cast<const Element*>(task.keys), task.table[block + b] * task.block_stride);
  });
  Floats dots[Queries][Blocks];
  repeat<Queries>([&](auto q) INLINE {
    repeat<Blocks>([&](auto b) INLINE { dots[q][b] = zero(); });
  });
  for (int d = 0; d < task.head_dim; d++) {
    Floats key[Blocks];
    repeat<Blocks>([&](auto b) INLINE { key[b] = load(keys[b] + d * lanes); });
    repeat<Queries>([&](auto q) INLINE {
      const Floats value = broadcast(task.query[first_query + q][d]);
      repeat<Blocks>([&](auto b) INLINE { dots[q][b] = fma(value, key[b], dots[q][b]); });
    });
  }
  repeat<Queries>([&](auto q) INLINE {
    float* scores = task.scores + (first_query + q) * task.score_stride;
    repeat<Blocks>([&](auto b) INLINE {
      const int at = (block + b) * lanes, from = task.first[first_query + q] - at, to = task.last[first_query + q] - at;
      Floats seen = dots[q][b];
      if (from > 0 || to < lanes - 1) seen = keep_lanes(seen, from, to, -__builtin_inff());
      store(scores + at, seen);
      highest_lane[q] = max(highest_lane[q], seen);
    });
  });
}

// Scores of every block that some query sees, and each query's highest.
template <class Element, int Queries>
void score_blocks(const AttentionTask& task, int first_query, int first_block, int last_block, float* highest) {
  constexpr int together = Queries >= 3 ? 1 : 4 / Queries;
  Floats highest_lane[Queries];
  repeat<Queries>([&](auto q) INLINE { highest_lane[q] = broadcast(-__builtin_inff()); });
  int block = first_block;
  for (; block + together - 1 <= last_block; block += together)
    score_side_by_side<Element, Queries, together>(task, first_query, block, highest_lane);
  for (; block <= last_block; block++) score_side_by_side<Element, Queries, 1>(task, first_query, block, highest_lane);
  repeat<Queries>([&](auto q) INLINE { highest[q] = largest(highest_lane[q]); });
}

// Turns scores into e^(score - highest) and returns their sum.
inline float exponentiate(float* scores, int first_block, int last_block, float highest) {
  Floats total = zero();
  for (int block = first_block; block <= last_block; block++) {
    const Floats weight = exponential(load(scores + block * lanes) - broadcast(highest));
    store(scores + block * lanes, weight);
    total = total + weight;
  }
  return sum(total);
}

// out = sum over tokens of weight x value, for Vectors x 16 dimensions from `first_dim` on.
template <class Element, int Queries, int Vectors>
void mix_values(const AttentionTask& task, int first_query, int first, int last, int first_dim, const float* scale) {
  Floats total[Queries][Vectors];
  repeat<Queries>([&](auto q) INLINE {
    repeat<Vectors>([&](auto i) INLINE { total[q][i] = zero(); });
  });
  for (int token = first; token <= last;) {
    const int block = token / lanes;
    const Element* values =
        step(static_cast<const Element*>(task.values), task.table[block] * task.block_stride + first_dim);
    const int end = smaller(last, block * lanes + lanes - 1);
    for (; token <= end; token++) {
      const Element* value = values + (token - block * lanes) * task.padded_head_dim;
      Floats loaded[Vectors];
      repeat<Vectors>([&](auto i) INLINE { loaded[i] = load(value + i * lanes); });
      repeat<Queries>([&](auto q) INLINE {
        const Floats weight = broadcast(task.scores[(first_query + q) * task.score_stride + token]);
        repeat<Vectors>([&](auto i) INLINE { total[q][i] = fma(weight, loaded[i], total[q][i]); });
      });
    }
  }
  repeat<Queries>([&](auto q) INLINE {
    repeat<Vectors>([&](auto i) INLINE {
      const int dim = first_dim + i * lanes, count = smaller(lanes, task.head_dim - dim);
      store_first(task.out[first_query + q] + dim, total[q][i] * broadcast(scale[q]), count);
    });
  });
}

template <class Element, int Queries>
void attend_queries(const AttentionTask& task, int first_query) {
  int first = task.first[first_query], last = task.last[first_query];
  for (int q = 1; q < Queries; q++) {
    first = smaller(first, task.first[first_query + q]);
    last = last > task.last[first_query + q] ? last : task.last[first_query + q];
  }
  const int first_block = first / lanes, last_block = last / lanes;
  float highest[Queries], scale[Queries];
  score_blocks<Element, Queries>(task, first_query, first_block, last_block, highest);
  repeat<Queries>([&](auto q) INLINE {
    scale[q] = 1.0f / exponentiate(task.scores + (first_query + q) * task.score_stride, first_block, last_block, highest[q]);
  });
  int dim = 0;
  for (; dim + 4 * lanes <= task.padded_head_dim; dim += 4 * lanes)
    mix_values<Element, Queries, 4>(task, first_query, first, last, dim, scale);
  for (; dim < task.padded_head_dim; dim += lanes) mix_values<Element, Queries, 1>(task, first_query, first, last, dim, scale);
}

template <class Element>
void attend(const AttentionTask& task) {
  int q = 0;
  for (; q + 4 <= task.queries; q += 4) attend_queries<Element, 4>(task, q);
  if (task.queries - q == 3) attend_queries<Element, 3>(task, q);
  if (task.queries - q == 2) attend_queries<Element, 2>(task, q);
  if (task.queries - q == 1) attend_queries<Element, 1>(task, q);
}

void store_f16_strided(const float* values, int count, std::uint16_t* out, std::ptrdiff_t out_stride) {
  const Floats bound = broadcast(65504.0f);  // the largest f16: never infinity, whatever the model does
  for (int i = 0; i < count; i += lanes) {
    const int left = smaller(lanes, count - i);
    std::uint16_t halves[lanes];
    store_f16(halves, max(min(load_first(values + i, left), bound), zero() - bound));
    for (int j = 0; j < left; j++) out[(i + j) * out_stride] = halves[j];
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Rows

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

constexpr Kernels make_kernels(const char* name) {
  return {.name = name,
          .multiply_f32 = cover<FloatBlock<float>>,
          .multiply_bf16 = cover<FloatBlock<BFloat16>>,
          .multiply_int8 = cover<Int8Block>,
          .multiply_int4 = cover<Int4Block>,
          .quantize_row = quantize_row,
          .attend_f32 = attend<float>,
          .attend_f16 = attend<std::uint16_t>,
          .store_f16 = store_f16_strided,
          .rms_norm = rms_norm,
          .layer_norm = layer_norm,
          .activate = activate,
          .argmax = argmax,
          .exponentials = exponentials,
          .sum_floats = sum_floats};
}
