// Linear layers, and the quantisation of what goes into them. Part of kernels_generic.h, which says where it is included.

// How far ahead of a row's product its weights are fetched: further than a page, which the hardware does not cross alone.
constexpr int prefetch_bytes = 4096;
inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }

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

// Weights of int8 are unsigned: where they are multiplied so, a sum over inputs starts at -128 times the sum of the codes.
inline Ints dot_start(std::int32_t code_sum) { return broadcast_int(signed_weights ? 0 : -128 * code_sum); }

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
      DotWeights four[Blocks];
      repeat<Blocks>([&](auto b) INLINE { four[b] = dot_weights(load_codes(codes + b * block_size + k * lanes)); });
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

// OnePart: a group is sum_group inputs. Known beforehand, as finding a group's parts and adding up their code sums takes
// half as many instructions as its products do.
template <int Rows, int Blocks, bool OnePart>
void multiply_int4_groups(const LinearWeights& w, const Activations& x, const LinearTile& tile, int block, int row) {
  const std::ptrdiff_t block_size = static_cast<std::ptrdiff_t>(w.padded_inputs) * lanes / 2;
  const Int4Groups first_groups(w, block);
  const std::int8_t* inputs = x.codes + row * x.code_stride;
  const int group_size = OnePart ? sum_group : w.group_size;
  Floats total[Rows][Blocks];
  repeat<Rows>([&](auto r) INLINE {
    repeat<Blocks>([&](auto b) INLINE { total[r][b] = zero(); });
  });
  for (int g = 0; g < first_groups.count; g++) {
    const int first = g * group_size, end = OnePart ? first + sum_group : smaller(first + group_size, w.padded_inputs);
    Ints acc[Rows][Blocks];
    repeat<Rows>([&](auto r) INLINE {
      const std::int32_t code_sum = OnePart ? x.sums[(row + r) * x.sum_stride + g] : sum_codes(x, row + r, first, end);
      repeat<Blocks>([&](auto b) INLINE { acc[r][b] = first_groups.start(b * first_groups.count + g, code_sum); });
    });
    for (int part = first; part < end; part += sum_group) {
      NibbleSums sums[Rows][Blocks];
      repeat<Rows>([&](auto r) INLINE {
        repeat<Blocks>([&](auto b) INLINE { sums[r][b] = nibble_sums(acc[r][b]); });
      });
      const std::uint8_t* eight = first_groups.codes + part * lanes / 2;
      repeat<sum_group / 8>([&](auto i) INLINE {
        repeat<2>([&](auto high) INLINE {
          Codes four[Blocks];
          repeat<Blocks>([&](auto b) INLINE {
            const Codes both = load_codes(eight + b * block_size + i * 64);
            four[b] = high ? high_nibbles(both) : low_nibbles(both);
          });
          repeat<Rows>([&](auto r) INLINE {
            const std::int8_t* codes = inputs + r * x.code_stride + part + 8 * i + 4 * high;
            repeat<Blocks>([&](auto b) INLINE { sums[r][b] = dot_nibbles(sums[r][b], four[b], codes); });
          });
        });
      });
      repeat<Rows>([&](auto r) INLINE {
        repeat<Blocks>([&](auto b) INLINE { acc[r][b] = total_nibbles(sums[r][b], acc[r][b]); });
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

template <int Rows, int Blocks>
void multiply_int4_block(const LinearWeights& w, const Activations& x, const LinearTile& tile, int block, int row) {
  (w.group_size == sum_group ? multiply_int4_groups<Rows, Blocks, true> : multiply_int4_groups<Rows, Blocks, false>)(
      w, x, tile, block, row);
}

// One row: the weights are read once and in the order they lie in, which is all that counts. Sums of codes are exact in
// any order, so some of them run side by side and the row comes out as it does among others.
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
        acc[i] = dot(acc[i], dot_weights(load_codes(four)), inputs + k + 4 * i);
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

template <bool OnePart>
void multiply_int4_row_groups(const LinearWeights& w, const Activations& x, const LinearTile& tile, int block, int row) {
  const Int4Groups groups(w, block);
  const std::int8_t* inputs = x.codes + row * x.code_stride;
  const std::int32_t* code_sums = x.sums + row * x.sum_stride;
  const float* input_scales = x.scales + row * x.scale_stride;
  const int group_size = OnePart ? sum_group : w.group_size;
  Floats total[1][1] = {{zero()}};
  for (int g = 0; g < groups.count; g++) {
    const int first = g * group_size, end = OnePart ? first + sum_group : smaller(first + group_size, w.padded_inputs);
    const std::uint16_t* scales = groups.scales + g * lanes;
    prefetch(scales + prefetch_bytes / 16);
    Ints acc = groups.start(g, OnePart ? code_sums[g] : sum_codes(x, row, first, end));
    for (int part = first; part < end; part += sum_group) {
      NibbleSums sums[nibble_chains];
      repeat<nibble_chains>([&](auto c) INLINE { sums[c] = nibble_sums(c == 0 ? acc : broadcast_int(0)); });
      repeat<sum_group / 8>([&](auto i) INLINE {
        const std::uint8_t* eight = groups.codes + (part + 8 * i) * lanes / 2;
        prefetch(eight + prefetch_bytes);
        const Codes both = load_codes(eight);
        constexpr int low = 2 * i % nibble_chains, high = (2 * i + 1) % nibble_chains;
        sums[low] = dot_nibbles(sums[low], low_nibbles(both), inputs + part + 8 * i);
        sums[high] = dot_nibbles(sums[high], high_nibbles(both), inputs + part + 8 * i + 4);
      });
      repeat<nibble_chains - 1>([&](auto c) INLINE { sums[0] = sums[0] + sums[c + 1]; });
      acc = total_nibbles(sums[0], acc);
    }
    const Floats scale = load(scales) * broadcast(input_scales[static_cast<unsigned>(first) / activation_group]);
    total[0][0] = fma(to_floats(acc), scale, total[0][0]);
  }
  add_outliers(total, x, row, [&](int, int k) { return groups.weights(k); });
  write_tile(total, w, block, tile, row);
}

void multiply_int4_row(const LinearWeights& w, const Activations& x, const LinearTile& tile, int block, int row) {
  (w.group_size == sum_group ? multiply_int4_row_groups<true> : multiply_int4_row_groups<false>)(w, x, tile, block, row);
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
