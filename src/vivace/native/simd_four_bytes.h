// For instruction sets whose dot_four() adds the products of four bytes exactly. Part of a simd_*.h.
#pragma once

constexpr bool signed_weights = false;
using DotWeights = Codes;
inline DotWeights dot_weights(const Codes& a) { return a; }
inline Ints dot(Ints acc, const DotWeights& weights, const std::int8_t* four) { return dot_four(acc, weights, four); }

using NibbleSums = Ints;
constexpr int nibble_chains = 4;  // sums side by side that hide the latency of dot_four()
inline NibbleSums nibble_sums(Ints start) { return start; }
inline NibbleSums dot_nibbles(NibbleSums sums, const Codes& weights, const std::int8_t* four) {
  return dot_four(sums, weights, four);
}
inline Ints total_nibbles(NibbleSums sums, Ints) { return sums; }
