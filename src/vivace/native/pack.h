// Turns checkpoint tensors into the layouts of linear.h, and one row back into floats.
#pragma once

#include <vector>

#include "linear.h"
#include "memory.h"
#include "threads.h"

namespace vivace {

enum class SourceType { f32, f16, bf16 };

// A matrix as the checkpoint holds it: [rows][inputs], row-major, with an optional bias [rows].
struct Source {
  const void* data;
  SourceType type;
  int rows;
  const float* bias;
};

// How several matrices over the same inputs become one.
enum class Stacking {
  rows,    // all rows of the first, then all of the second, ...
  blocks,  // 16 rows of each in turn, so that one tile holds a gate and its up-projection
};

struct PackedLinear {
  Format format = Format::f32;
  int outputs = 0;
  int inputs = 0;
  int padded_inputs = 0;
  Memory weights;
  Array<float> scales;
  Array<float> bias;

  int blocks() const { return (outputs + lanes - 1) / lanes; }
  std::size_t block_bytes() const {
    return static_cast<std::size_t>(padded_inputs) * lanes * (format == Format::f32 ? sizeof(float) : 1);
  }
  std::size_t bytes() const { return weights.bytes() + scales.bytes() + bias.bytes(); }
  LinearWeights view() const {
    return {weights.as<void>(), scales.data(), bias.data(), outputs, inputs, padded_inputs};
  }
};

// Throws std::invalid_argument for shapes that cannot be.
PackedLinear pack(Format format, const std::vector<Source>& parts, int inputs, Stacking stacking, ThreadTeam& team);

// out[inputs] = row `row` of the matrix, as the format remembers it.
void unpack_row(const PackedLinear& linear, int row, float* out);

}  // namespace vivace
