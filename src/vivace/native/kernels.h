// The inner loops, one table of them for each instruction set. Every table computes the same functions; rounding may
// differ between tables, never within one: the result for a row does not depend on which other rows are computed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "linear.h"

namespace vivace {

// Which outputs of which rows one call computes, and where they go.
struct LinearTile {
  int first_block, blocks;
  int first_row, rows;
  float* out;                 // output 16 * first_block of row first_row
  std::ptrdiff_t out_stride;  // between rows
  bool accumulate;            // add to what `out` holds
};

constexpr int max_queries = 8;  // that one call to attend() takes

// Attention of up to `max_queries` (token, head) pairs that read the same key-value head of one sequence.
// In a block, keys are [head_dim][16 tokens] and values [16 tokens][padded_head_dim].
struct AttentionTask {
  const void* keys;    // of block 0
  const void* values;  // of block 0
  std::ptrdiff_t block_stride;  // elements between blocks
  const std::int32_t* table;    // the sequence's blocks
  int head_dim, padded_head_dim;
  int queries;
  const float* query[max_queries];  // [head_dim], rotated and scaled
  float* out[max_queries];          // [head_dim]
  int first[max_queries];           // first position it sees
  int last[max_queries];            // last position it sees: its own
  float* scores;                    // scratch: [max_queries][score_stride]
  std::ptrdiff_t score_stride;      // at least the context, rounded up to whole blocks
};

enum class Activation { silu, gelu, gelu_tanh };

struct Kernels {
  const char* name;

  void (*multiply_f32)(const LinearWeights&, const Activations&, const LinearTile&);
  void (*multiply_bf16)(const LinearWeights&, const Activations&, const LinearTile&);
  void (*multiply_int8)(const LinearWeights&, const Activations&, const LinearTile&);
  void (*multiply_int4)(const LinearWeights&, const Activations&, const LinearTile&);
  void (*quantize_row)(const float* values, int inputs, int padded_inputs, int row, const Activations& out);

  void (*attend_f32)(const AttentionTask&);
  void (*attend_f16)(const AttentionTask&);
  void (*store_f16)(const float* values, int count, std::uint16_t* out, std::ptrdiff_t out_stride);

  // out = weight * x / sqrt(mean(x^2) + epsilon)                    (RMSNorm, Zhang and Sennrich 2019)
  void (*rms_norm)(const float* x, const float* weight, int size, float epsilon, float* out);
  // out = weight * (x - mean) / sqrt(variance + epsilon) + bias     (LayerNorm, Ba et al. 2016)
  void (*layer_norm)(const float* x, const float* weight, const float* bias, int size, float epsilon, float* out);
  // out[i] = activation(gate[i]) * up[i]; `up` may be null for 1. Pointers advance 16 by 16 with their strides.
  void (*activate)(Activation, const float* gate, const float* up, int size, std::ptrdiff_t in_stride, float* out);

  int (*argmax)(const float* values, int size);  // of equals, the first
  // out[i] = exp((values[i] - shift) * scale); returns the sum, added in an order that depends on size alone.
  double (*exponentials)(const float* values, int size, float shift, float scale, float* out);
  // The sum of `size` floats (a multiple of 128), as fast as they can be read: what bandwidth is measured with.
  float (*sum_floats)(const float* values, std::size_t size);
};

using MultiplyKernel = void (*)(const LinearWeights&, const Activations&, const LinearTile&);

inline MultiplyKernel kernel_for(const Kernels& kernels, Format format) {
  switch (format) {
    case Format::f32: return kernels.multiply_f32;
    case Format::bf16: return kernels.multiply_bf16;
    case Format::int8: return kernels.multiply_int8;
    case Format::int4: break;
  }
  return kernels.multiply_int4;
}

extern const Kernels kernels_portable;
extern const Kernels kernels_avx2;
extern const Kernels kernels_avxvnni;
extern const Kernels kernels_avx512;

}  // namespace vivace
