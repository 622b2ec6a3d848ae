// From logits to a token. The random number behind a token is a function of seed and position alone.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels.h"

namespace vivace {

// As vivace.batch.Sampling, which says what each field means.
struct Sampling {
  float temperature = 0;
  int top_k = 0;
  float top_p = 1;
  std::uint64_t seed = 0;
  std::vector<std::int32_t> stop_token_ids;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::vector<std::pair<std::int32_t, float>> logit_bias;
  int min_tokens = 0;
  int prompt_length = 0;
  int logprobs = -1;

  bool stops_at(std::int32_t token) const;
  bool reads_history() const { return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0; }
};

// Where a token is to be chosen.
struct Place {
  std::int64_t position;                  // of the new token in its sequence
  std::span<const std::int32_t> history;  // every token before it, if the sampling reads history
  const std::uint8_t* mask;               // a bit for each token that may be chosen, or null for all
};

struct Logprobs {
  float chosen;
  std::vector<std::pair<std::int32_t, float>> likeliest;
};

// Chooses a token. Changes `logits`; `scratch` holds `vocabulary` floats. Fills `logprobs` if the sampling asks for
// them: natural logarithms under the logits as they came.
std::int32_t choose_token(const Kernels& kernels, float* logits, int vocabulary, const Sampling& sampling,
                          const Place& place, float* scratch, Logprobs& logprobs);

// Natural logarithm of the probability of `token` under softmax(logits).
float log_probability(const Kernels& kernels, const float* logits, int vocabulary, std::int32_t token, float* scratch);

}  // namespace vivace
