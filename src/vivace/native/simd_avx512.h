// Sixteen lanes on AVX-512 with VNNI. Included by kernels_avx512.cpp alone, inside its namespace.
#pragma once

struct Floats {
  __m512 v;
};
struct Ints {
  __m512i v;
};
struct Codes {
  __m512i v;
};

constexpr int tile_rows = 6, tile_blocks = 4;  // what 32 registers hold
constexpr int attention_sums = 8;  // side by side

inline Floats zero() { return {_mm512_setzero_ps()}; }
inline Floats broadcast(float x) { return {_mm512_set1_ps(x)}; }
inline Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Floats load(const std::uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Floats load(const BFloat16* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
inline Floats load_first(const float* p, int count) { return {_mm512_maskz_loadu_ps((1u << count) - 1, p)}; }
inline void store(float* p, Floats a) { _mm512_storeu_ps(p, a.v); }
inline void store_first(float* p, Floats a, int count) { _mm512_mask_storeu_ps(p, (1u << count) - 1, a.v); }
inline void store_f16(std::uint16_t* p, Floats a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}

inline Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Floats max(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Floats min(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Floats absolute(Floats a) { return {_mm512_abs_ps(a.v)}; }
inline Floats round_to_even(Floats a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline Floats scale_by_power_of_two(Floats a, Floats exponent) { return {_mm512_scalef_ps(a.v, exponent.v)}; }
inline Floats zero_where_below(Floats a, Floats x, float bound) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(bound), _CMP_GE_OQ), a.v)};
}
// Lanes `from` to `to` of a, and `other` in the rest; both may lie outside.
inline Floats keep_lanes(Floats a, int from, int to, float other) {
  const unsigned up_to = to < 0 ? 0u : to > 15 ? 0xFFFFu : (2u << to) - 1;
  const unsigned before = from <= 0 ? 0u : from > 15 ? 0xFFFFu : (1u << from) - 1;
  return {_mm512_mask_blend_ps(static_cast<__mmask16>(up_to & ~before), _mm512_set1_ps(other), a.v)};
}
inline Floats copy_sign(Floats magnitude, Floats sign) {
  const __m512i mask = _mm512_set1_epi32(static_cast<int>(0x80000000u));
  return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(mask, _mm512_castps_si512(sign.v),
                                                        _mm512_castps_si512(magnitude.v), 0xCA))};
}
inline float sum(Floats a) { return _mm512_reduce_add_ps(a.v); }
inline float largest(Floats a) { return _mm512_reduce_max_ps(a.v); }

inline Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline Ints broadcast_int(std::int32_t x) { return {_mm512_set1_epi32(x)}; }
// x times each of sixteen unsigned bytes.
inline Ints multiply_bytes(const std::uint8_t* p, std::int32_t x) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_mullo_epi32(_mm512_cvtepu8_epi32(bytes), _mm512_set1_epi32(x))};
}
inline Floats to_floats(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }

inline Codes load_codes(const std::uint8_t* p) { return {_mm512_load_si512(p)}; }
inline Codes low_nibbles(Codes a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
inline Codes high_nibbles(Codes a) { return low_nibbles({_mm512_srli_epi16(a.v, 4)}); }
inline Ints dot_four(Ints acc, Codes weights, const std::int8_t* four) {
  std::int32_t packed;
  __builtin_memcpy(&packed, four, sizeof packed);
  return {_mm512_dpbusd_epi32(acc.v, weights.v, _mm512_set1_epi32(packed))};
}
#include "simd_four_bytes.h"
// Byte `which` (0 to 3) of each of sixteen groups of four.
inline Floats column(Codes a, int which) {
  const __m512i shifted = _mm512_srl_epi32(a.v, _mm_cvtsi32_si128(8 * which));
  return {_mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(0xFF)))};
}
// Rounds to the nearest integer, stores as signed bytes, and returns the sum of what was stored.
inline std::int32_t store_codes(std::int8_t* p, Floats a) {
  const __m512i whole = _mm512_cvtps_epi32(a.v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(whole));
  return _mm512_reduce_add_epi32(whole);
}
