// Sixteen lanes in two AVX2 registers. Included inside the namespace of kernels_avx2.cpp and of kernels_avxvnni.cpp,
// which has the dot product of bytes as one instruction.
#pragma once

struct Floats {
  __m256 low, high;
};
struct Ints {
  __m256i low, high;
};
struct Codes {
  __m256i low, high;
};

constexpr int tile_rows = 6, tile_blocks = 1;  // what 16 registers hold
constexpr int attention_sums = 4;  // side by side

inline Floats broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Floats zero() { return broadcast(0); }
inline Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Floats load(const std::uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline Floats load(const BFloat16* p) {
  const auto widen = [](const BFloat16* q) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  };
  return {widen(p), widen(p + 8)};
}
inline __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Floats load_first(const float* p, int count) {
  return {_mm256_maskload_ps(p, first_lanes(count)), _mm256_maskload_ps(p + 8, first_lanes(count - 8))};
}
inline void store(float* p, Floats a) {
  _mm256_storeu_ps(p, a.low);
  _mm256_storeu_ps(p + 8, a.high);
}
inline void store_first(float* p, Floats a, int count) {
  if (count >= lanes) return store(p, a);  // a masked store takes dozens of cycles on Zen 1 to 3
  _mm256_maskstore_ps(p, first_lanes(count), a.low);
  _mm256_maskstore_ps(p + 8, first_lanes(count - 8), a.high);
}
inline void store_f16(std::uint16_t* p, Floats a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.low, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(a.high, _MM_FROUND_TO_NEAREST_INT));
}

inline Floats operator+(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline Floats fma(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline Floats min(Floats a, Floats b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline Floats absolute(Floats a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
// Lanes `from` to `to` of a, and `other` in the rest; both may lie outside.
inline Floats keep_lanes(Floats a, int from, int to, float other) {
  const auto blend = [&](__m256 half, int first) {
    const __m256i kept = _mm256_andnot_si256(first_lanes(from - first), first_lanes(to + 1 - first));
    return _mm256_blendv_ps(_mm256_set1_ps(other), half, _mm256_castsi256_ps(kept));
  };
  return {blend(a.low, 0), blend(a.high, 8)};
}
inline Floats copy_sign(Floats magnitude, Floats sign) {
  const __m256 mask = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(_mm256_and_ps(mask, sign.low), _mm256_andnot_ps(mask, magnitude.low)),
          _mm256_or_ps(_mm256_and_ps(mask, sign.high), _mm256_andnot_ps(mask, magnitude.high))};
}
inline Floats round_to_even(Floats a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.low, mode), _mm256_round_ps(a.high, mode)};
}
inline Floats scale_by_power_of_two(Floats a, Floats exponent) {
  const auto power = [](__m256 e) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(e), _mm256_set1_epi32(127)), 23));
  };
  return {_mm256_mul_ps(a.low, power(exponent.low)), _mm256_mul_ps(a.high, power(exponent.high))};
}
inline Floats zero_where_below(Floats a, Floats x, float bound) {
  const __m256 least = _mm256_set1_ps(bound);
  return {_mm256_and_ps(a.low, _mm256_cmp_ps(x.low, least, _CMP_GE_OQ)),
          _mm256_and_ps(a.high, _mm256_cmp_ps(x.high, least, _CMP_GE_OQ))};
}
template <class Combine>
inline float reduce(__m256 a, Combine combine) {
  __m128 four = combine(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  four = combine(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(combine(four, _mm_movehdup_ps(four)));
}
inline float sum(Floats a) {
  return reduce(_mm256_add_ps(a.low, a.high), [](__m128 x, __m128 y) { return _mm_add_ps(x, y); });
}
inline float largest(Floats a) {
  return reduce(_mm256_max_ps(a.low, a.high), [](__m128 x, __m128 y) { return _mm_max_ps(x, y); });
}

inline Ints operator+(Ints a, Ints b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
inline Ints broadcast_int(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
// x times each of sixteen unsigned bytes.
inline Ints multiply_bytes(const std::uint8_t* p, std::int32_t x) {
  const auto widen = [&](const std::uint8_t* q) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(q));
    return _mm256_mullo_epi32(_mm256_cvtepu8_epi32(bytes), _mm256_set1_epi32(x));
  };
  return {widen(p), widen(p + 8)};
}
inline Floats to_floats(Ints a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }

inline Codes load_codes(const std::uint8_t* p) {
  return {_mm256_load_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_load_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
inline Codes low_nibbles(Codes a) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(a.low, mask), _mm256_and_si256(a.high, mask)};
}
inline Codes high_nibbles(Codes a) {
  return low_nibbles({_mm256_srli_epi16(a.low, 4), _mm256_srli_epi16(a.high, 4)});
}
inline __m256i broadcast_four(const std::int8_t* four) {
  std::int32_t packed;
  __builtin_memcpy(&packed, four, sizeof packed);
  return _mm256_set1_epi32(packed);
}
#if defined(__AVXVNNI__)
inline Ints dot_four(Ints acc, Codes weights, const std::int8_t* four) {
  const __m256i x = broadcast_four(four);
  return {_mm256_dpbusd_avx_epi32(acc.low, weights.low, x), _mm256_dpbusd_avx_epi32(acc.high, weights.high, x)};
}
#include "simd_four_bytes.h"
#else
// Products of bytes are added in pairs of 16 bits that saturate: the weight's magnitude times x with the weight's sign
// stays below 128 * 127 * 2, where an unsigned weight of 255 would not. So a sum starts at nothing.
constexpr bool signed_weights = true;
struct DotWeights {
  Codes values, magnitudes;
};
inline DotWeights dot_weights(Codes a) {
  const __m256i flip = _mm256_set1_epi8(-128);
  const Codes values{_mm256_xor_si256(a.low, flip), _mm256_xor_si256(a.high, flip)};
  return {values, {_mm256_abs_epi8(values.low), _mm256_abs_epi8(values.high)}};
}
inline Ints dot(Ints acc, const DotWeights& w, const std::int8_t* four) {
  const __m256i x = broadcast_four(four), ones = _mm256_set1_epi16(1);
  const auto pairs = [&](__m256i magnitude, __m256i value) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, value)), ones);
  };
  return acc + Ints{pairs(w.magnitudes.low, w.values.low), pairs(w.magnitudes.high, w.values.high)};
}
// Nibbles times bytes stay small: 16 bits hold the sums of sum_group inputs, 8 x 2 x 15 x 127.
struct NibbleSums {
  __m256i low, high;
};
inline NibbleSums operator+(NibbleSums a, NibbleSums b) {
  return {_mm256_add_epi16(a.low, b.low), _mm256_add_epi16(a.high, b.high)};
}
constexpr int nibble_chains = 1;  // an addition of 16 bits has no latency to hide
inline NibbleSums nibble_sums(Ints) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline NibbleSums dot_nibbles(NibbleSums sums, Codes weights, const std::int8_t* four) {
  const __m256i x = broadcast_four(four);
  return sums + NibbleSums{_mm256_maddubs_epi16(weights.low, x), _mm256_maddubs_epi16(weights.high, x)};
}
inline Ints total_nibbles(NibbleSums sums, Ints start) {
  const __m256i ones = _mm256_set1_epi16(1);
  return start + Ints{_mm256_madd_epi16(sums.low, ones), _mm256_madd_epi16(sums.high, ones)};
}
#endif
// Byte `which` (0 to 3) of each of sixteen groups of four.
inline Floats column(Codes a, int which) {
  const __m128i shift = _mm_cvtsi32_si128(8 * which);
  const __m256i mask = _mm256_set1_epi32(0xFF);
  return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srl_epi32(a.low, shift), mask)),
          _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srl_epi32(a.high, shift), mask))};
}
// Rounds to the nearest integer, stores as signed bytes, and returns the sum of what was stored.
inline std::int32_t store_codes(std::int8_t* p, Floats a) {
  const __m256i low = _mm256_cvtps_epi32(a.low), high = _mm256_cvtps_epi32(a.high);
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  const __m256i total = _mm256_add_epi32(low, high);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
}
