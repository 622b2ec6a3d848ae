// Sixteen lanes in plain C++: the compiler's own vectors, lowered to whatever the base instruction set has.
// Included by kernels_portable.cpp alone, inside its namespace.
#pragma once

typedef float FloatVector __attribute__((vector_size(64)));
typedef std::int32_t IntVector __attribute__((vector_size(64)));

struct Floats {
  FloatVector v;
};
struct Ints {
  IntVector v;
};
struct Codes {
  std::uint8_t bytes[64];
};

constexpr int tile_rows = 2, tile_blocks = 2;
constexpr int attention_sums = 4;  // side by side

inline float half_to_float(std::uint16_t half) {
  _Float16 value;
  __builtin_memcpy(&value, &half, sizeof value);
  return static_cast<float>(value);
}
inline std::uint16_t float_to_half(float value) {
  const _Float16 half = static_cast<_Float16>(value);
  std::uint16_t bits;
  __builtin_memcpy(&bits, &half, sizeof bits);
  return bits;
}

inline Floats zero() { return {FloatVector{}}; }
inline Floats broadcast(float x) { return {FloatVector{} + x}; }
inline Floats load(const float* p) {
  Floats a;
  __builtin_memcpy(&a.v, p, sizeof a.v);
  return a;
}
inline Floats load(const std::uint16_t* p) {
  Floats a;
  for (int i = 0; i < 16; i++) a.v[i] = half_to_float(p[i]);
  return a;
}
inline Floats load(const BFloat16* p) {
  Floats a;
  for (int i = 0; i < 16; i++) {
    const std::uint32_t bits = static_cast<std::uint32_t>(p[i].bits) << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    a.v[i] = value;
  }
  return a;
}
inline Floats load_first(const float* p, int count) {
  Floats a = zero();
  for (int i = 0; i < count; i++) a.v[i] = p[i];
  return a;
}
inline void store(float* p, Floats a) { __builtin_memcpy(p, &a.v, sizeof a.v); }
inline void store_first(float* p, Floats a, int count) {
  for (int i = 0; i < count; i++) p[i] = a.v[i];
}
inline void store_f16(std::uint16_t* p, Floats a) {
  for (int i = 0; i < 16; i++) p[i] = float_to_half(a.v[i]);
}

inline Floats operator+(Floats a, Floats b) { return {a.v + b.v}; }
inline Floats operator-(Floats a, Floats b) { return {a.v - b.v}; }
inline Floats operator*(Floats a, Floats b) { return {a.v * b.v}; }
inline Floats operator/(Floats a, Floats b) { return {a.v / b.v}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {a.v * b.v + c.v}; }
inline Floats max(Floats a, Floats b) { return {a.v > b.v ? a.v : b.v}; }
inline Floats min(Floats a, Floats b) { return {a.v < b.v ? a.v : b.v}; }
inline Floats absolute(Floats a) { return {a.v < 0.0f ? -a.v : a.v}; }
inline Floats round_to_even(Floats a) {
  const FloatVector magic = FloatVector{} + 12582912.0f;  // 1.5 * 2^23: adding it drops the fraction
  return {(a.v + magic) - magic};
}
inline Floats scale_by_power_of_two(Floats a, Floats exponent) {
  const IntVector bits = (__builtin_convertvector(exponent.v, IntVector) + 127) << 23;
  FloatVector power;
  __builtin_memcpy(&power, &bits, sizeof power);
  return {a.v * power};
}
inline Floats zero_where_below(Floats a, Floats x, float bound) { return {x.v >= bound ? a.v : FloatVector{}}; }
// Lanes `from` to `to` of a, and `other` in the rest; both may lie outside.
inline Floats keep_lanes(Floats a, int from, int to, float other) {
  for (int i = 0; i < 16; i++)
    if (i < from || i > to) a.v[i] = other;
  return a;
}
inline Floats copy_sign(Floats magnitude, Floats sign) { return {sign.v < 0.0f ? -magnitude.v : magnitude.v}; }
inline float sum(Floats a) {
  float total[8];
  for (int i = 0; i < 8; i++) total[i] = a.v[i] + a.v[i + 8];
  return ((total[0] + total[4]) + (total[2] + total[6])) + ((total[1] + total[5]) + (total[3] + total[7]));
}
inline float largest(Floats a) {
  float best = a.v[0];
  for (int i = 1; i < 16; i++) best = a.v[i] > best ? a.v[i] : best;
  return best;
}

inline Ints operator+(Ints a, Ints b) { return {a.v + b.v}; }
inline Ints broadcast_int(std::int32_t x) { return {IntVector{} + x}; }
inline Ints multiply_bytes(const std::uint8_t* p, std::int32_t x) {
  Ints a;
  for (int i = 0; i < 16; i++) a.v[i] = x * p[i];
  return a;
}
inline Floats to_floats(Ints a) { return {__builtin_convertvector(a.v, FloatVector)}; }

inline Codes load_codes(const std::uint8_t* p) {
  Codes a;
  __builtin_memcpy(a.bytes, p, sizeof a.bytes);
  return a;
}
inline Codes low_nibbles(Codes a) {
  for (std::uint8_t& byte : a.bytes) byte &= 15;
  return a;
}
inline Codes high_nibbles(Codes a) {
  for (std::uint8_t& byte : a.bytes) byte >>= 4;
  return a;
}
inline Ints dot_four(Ints acc, const Codes& weights, const std::int8_t* four) {
  for (int i = 0; i < 16; i++) {
    const std::uint8_t* w = weights.bytes + 4 * i;
    acc.v[i] += w[0] * four[0] + w[1] * four[1] + w[2] * four[2] + w[3] * four[3];
  }
  return acc;
}
#include "simd_four_bytes.h"
inline Floats column(const Codes& a, int which) {
  Floats out;
  for (int i = 0; i < 16; i++) out.v[i] = static_cast<float>(a.bytes[4 * i + which]);
  return out;
}
inline std::int32_t store_codes(std::int8_t* p, Floats a) {
  const IntVector whole = __builtin_convertvector(round_to_even(a).v, IntVector);
  std::int32_t total = 0;
  for (int i = 0; i < 16; i++) {
    p[i] = static_cast<std::int8_t>(whole[i]);
    total += whole[i];
  }
  return total;
}
