// A linear layer's weights as the kernels read them, and the activations that go in.
//
// Outputs come in blocks of 16, one to a vector lane, so that nothing is ever summed across lanes:
//   f32   [outputs/16][inputs][16]          float
//   bf16  [outputs/16][inputs][16]          the high half of a float
//   int8  [outputs/16][inputs/4][16][4]     code = weight/scale + 128; one scale an output
//   int4  [outputs/16][inputs/8][16][4]     code = weight/scale + zero, in nibbles: the low ones of four bytes are
//                                           inputs 0 to 3 of eight, the high ones 4 to 7; a scale, and a zero if it is
//                                           not 8, for each output and group of inputs
// Activations for int8 and int4 are signed codes with one scale for each group of 128 inputs, and the sum of the codes
// of every 32 inputs: code sums undo what makes the weights unsigned. The few inputs of a row that tower over their
// group are left out of the codes and multiplied in float (LLM.int8(), Dettmers et al. 2022, for single values).
#pragma once

#include <cstddef>
#include <cstdint>

namespace vivace {

constexpr int lanes = 16;             // outputs in a block
constexpr int activation_group = 128; // inputs that share one activation scale
constexpr int sum_group = 32;         // inputs that share one code sum
constexpr int max_outliers = 16;      // inputs of one row that may be kept in float

constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

enum class Format { f32, bf16, int8, int4 };

struct BFloat16 {
  std::uint16_t bits;
};

// A linear layer as a kernel sees it; pack.h owns what it points to.
struct LinearWeights {
  const void* weights = nullptr;
  const float* scales = nullptr;               // int8: [blocks * 16]
  const std::uint16_t* group_scales = nullptr; // int4: f16 [blocks][groups][16]
  const std::uint8_t* group_zeros = nullptr;   // int4: [blocks][groups][16], or null where all are 8
  const float* bias = nullptr;                 // [blocks * 16], or null
  int group_size = 0;                          // int4: inputs to a group, a multiple of sum_group
  int outputs = 0;
  int inputs = 0;
  int padded_inputs = 0;  // a multiple of sum_group; what is padded is zero
};

// Rows of inputs to one or more linears of the same width, in the form their format wants. Strides are in elements.
struct Activations {
  const float* values = nullptr;  // [rows][value_stride], for f32
  std::ptrdiff_t value_stride = 0;

  std::int8_t* codes = nullptr;  // [rows][code_stride], zero past the inputs
  std::ptrdiff_t code_stride = 0;
  float* scales = nullptr;  // [rows][scale_stride], one for each activation_group
  std::ptrdiff_t scale_stride = 0;
  std::int32_t* sums = nullptr;  // [rows][sum_stride], one for each sum_group
  std::ptrdiff_t sum_stride = 0;
  std::int32_t* outliers = nullptr;      // [rows]: how many
  std::int32_t* outlier_inputs = nullptr;  // [rows][max_outliers]
  float* outlier_values = nullptr;         // [rows][max_outliers]
};

}  // namespace vivace
