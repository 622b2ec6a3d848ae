// Turns checkpoint tensors into the layouts of linear.h, and one row back into floats.
#pragma once

#include <vector>

#include "linear.h"
#include "memory.h"
#include "threads.h"

namespace vivace {

enum class SourceType { f32, f16, bf16, int8, int4 };

// A matrix as the checkpoint holds it: [rows][inputs], row-major, with an optional bias [rows].
struct Source {
  const void* data;
  SourceType type;
  int rows;
  const float* bias = nullptr;
  // Of integer types: value = scale * (code - zero). Codes of int8 are signed with no zero; those of int4 are unsigned
  // nibbles, the low one first, with a zero for each scale, or 8 where `zeros` is null.
  const float* scales = nullptr;        // int8: [rows]; int4: [rows][groups]
  const std::uint8_t* zeros = nullptr;  // int4: [rows][groups]
  int group_size = 0;                   // int4
};

// How several matrices over the same inputs become one.
enum class Stacking {
  rows,    // all rows of the first, then all of the second, ...
  blocks,  // 16 rows of each in turn, so that one tile holds a gate and its up-projection
};

// The format to pack floats in. Integer sources keep their own codes and scales whatever it says.
struct PackFormat {
  Format format;
  int group_size = 32;  // int4: 32, 64 or 128
};

struct PackedLinear {
  Format format = Format::f32;
  int outputs = 0;
  int inputs = 0;
  int padded_inputs = 0;
  int group_size = 0;
  Memory weights;
  Array<float> scales;
  Array<std::uint16_t> group_scales;
  Array<std::uint8_t> group_zeros;
  Array<float> bias;

  bool empty() const { return outputs == 0; }
  int blocks() const { return (outputs + lanes - 1) / lanes; }
  int groups() const { return group_size ? (padded_inputs + group_size - 1) / group_size : 0; }
  bool reads_codes() const { return format == Format::int8 || format == Format::int4; }
  std::size_t block_bytes() const;
  std::size_t bytes() const {
    return weights.bytes() + scales.bytes() + group_scales.bytes() + group_zeros.bytes() + bias.bytes();
  }
  LinearWeights view() const {
    return {weights.as<void>(), scales.data(), group_scales.data(), group_zeros.data(), bias.data(),
            group_size,         outputs,       inputs,              padded_inputs};
  }
};

// Throws std::invalid_argument for shapes that cannot be, and for sources that cannot stand in one matrix.
PackedLinear pack(PackFormat format, const std::vector<Source>& parts, int inputs, Stacking stacking, ThreadTeam& team);

// Whether `parts` can become one matrix: all of floats, or all of integers of one kind and group size.
bool can_stack(const std::vector<Source>& parts);

// out[inputs] = row `row` of the matrix, as the format remembers it.
void unpack_row(const PackedLinear& linear, int row, float* out);

}  // namespace vivace
