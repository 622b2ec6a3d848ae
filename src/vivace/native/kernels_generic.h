// Every kernel once, written over the sixteen lanes of a simd_*.h. Each kernels_*.cpp includes a simd_*.h and then this
// file inside its own anonymous namespace, so no two instruction sets can share a symbol. No standard library here:
// its inline functions would be compiled for one instruction set and linked into all.

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

#include "kernels_attention.h"
#include "kernels_linear.h"
#include "kernels_rows.h"

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
