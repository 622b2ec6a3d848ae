// From logits to a token. The random number behind a token is a function of seed and position alone.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace vivace {

struct Sampling {
  float temperature = 0;  // 0: greedy
  int top_k = 0;          // 0: all
  float top_p = 1;
  std::uint64_t seed = 0;
  std::vector<std::int32_t> stop_token_ids;

  bool stops_at(std::int32_t token) const;
};

// Temperature, then top-k, then top-p, each renormalised, as transformers does. `position` is the new token's place in
// its sequence. `scratch` holds `vocabulary` floats.
std::int32_t sample(const Kernels& kernels, const float* logits, int vocabulary, const Sampling& sampling,
                    std::int64_t position, float* scratch);

// Natural logarithm of the probability of `token` under softmax(logits).
float log_probability(const Kernels& kernels, const float* logits, int vocabulary, std::int32_t token, float* scratch);

}  // namespace vivace
