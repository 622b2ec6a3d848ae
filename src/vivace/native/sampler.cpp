#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

namespace vivace {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014): a bijection that scrambles all 64 bits.
std::uint64_t scramble(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Uniform in [0, 1).
double random_number(std::uint64_t seed, std::int64_t position) {
  const std::uint64_t bits = scramble(scramble(seed) ^ static_cast<std::uint64_t>(position));
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

std::int32_t walk(const float* weights, int size, double target) {
  int last = 0;
  for (int i = 0; i < size; i++) {
    if (weights[i] <= 0) continue;
    last = i;
    target -= weights[i];
    if (target < 0) return i;
  }
  return last;  // rounding left a little over
}

using Candidate = std::pair<float, std::int32_t>;  // weight, token

// The heaviest tokens, heaviest first (of equals, the lowest id): at least the top_k ones if that is a limit, else enough
// to hold the mass asked for or all down to min_p of the heaviest, which weighs 1. The bound falls fast, so few are
// sorted.
std::vector<Candidate> gather_heaviest(const float* weights, int vocabulary, const Sampling& sampling, double mass) {
  const bool limited = sampling.top_k > 0 && sampling.top_k < vocabulary;
  const float lowest = limited ? 0 : sampling.min_p;
  std::vector<Candidate> candidates;
  for (float bound = std::max(0x1.0p-4f, lowest);; bound = std::max(bound * bound, lowest)) {
    candidates.clear();
    double gathered = 0;
    for (int i = 0; i < vocabulary; i++)
      if (weights[i] > 0 && weights[i] >= bound) {
        candidates.emplace_back(weights[i], i);
        gathered += weights[i];
      }
    const bool enough = limited ? static_cast<int>(candidates.size()) >= sampling.top_k : gathered >= mass;
    if (enough || bound <= lowest) break;
  }
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  });
  return candidates;
}

// The shortest prefix that holds `mass`; at least one.
std::size_t count_nucleus(const std::vector<Candidate>& candidates, double mass) {
  double gathered = 0;
  std::size_t count = 0;
  while (count < candidates.size() && (count == 0 || gathered < mass)) gathered += candidates[count++].first;
  return count;
}

double weigh(const std::vector<Candidate>& candidates) {
  double total = 0;
  for (const Candidate& candidate : candidates) total += candidate.first;
  return total;
}

constexpr float never = -std::numeric_limits<float>::infinity();

void apply_mask(float* logits, int vocabulary, const std::uint8_t* mask) {
  for (int token = 0; token < vocabulary; token++)
    if (!(mask[token / 8] >> (token % 8) & 1)) logits[token] = never;
}

// Repetition (Keskar et al. 2019, CTRL) counts all tokens before, presence and frequency those generated.
void apply_penalties(float* logits, const Sampling& sampling, std::span<const std::int32_t> history) {
  std::unordered_map<std::int32_t, int> generated;
  for (std::size_t i = 0; i < history.size(); i++)
    generated[history[i]] += i >= static_cast<std::size_t>(sampling.prompt_length);
  for (const auto& [token, times] : generated) {
    float& logit = logits[token];
    logit = logit > 0 ? logit / sampling.repetition_penalty : logit * sampling.repetition_penalty;
    if (times) logit -= sampling.presence_penalty + sampling.frequency_penalty * static_cast<float>(times);
  }
}

void adjust(float* logits, int vocabulary, const Sampling& sampling, const Place& place) {
  if (place.mask) apply_mask(logits, vocabulary, place.mask);
  for (const auto& [token, bias] : sampling.logit_bias) logits[token] += bias;
  if (sampling.reads_history()) apply_penalties(logits, sampling, place.history);
  if (place.position - sampling.prompt_length < sampling.min_tokens)
    for (const std::int32_t token : sampling.stop_token_ids) logits[token] = never;
}

std::int32_t draw(const Kernels& kernels, const float* logits, int vocabulary, const Sampling& sampling,
                  std::int64_t position, float* scratch) {
  const int best = kernels.argmax(logits, vocabulary);
  if (sampling.temperature <= 0 || sampling.top_k == 1) return best;
  const double total = kernels.exponentials(logits, vocabulary, logits[best], 1 / sampling.temperature, scratch);
  const double number = random_number(sampling.seed, position);
  const bool limited = sampling.top_k > 0 && sampling.top_k < vocabulary;
  if (!limited && sampling.top_p >= 1 && sampling.min_p <= 0) return walk(scratch, vocabulary, number * total);

  std::vector<Candidate> kept = gather_heaviest(scratch, vocabulary, sampling, sampling.top_p * total);
  if (limited && kept.size() > static_cast<std::size_t>(sampling.top_k)) kept.resize(sampling.top_k);
  if (sampling.top_p < 1) kept.resize(count_nucleus(kept, sampling.top_p * (limited ? weigh(kept) : total)));
  while (kept.size() > 1 && kept.back().first < sampling.min_p) kept.pop_back();
  std::vector<float> weights(kept.size());
  for (std::size_t i = 0; i < kept.size(); i++) weights[i] = kept[i].first;
  return kept[walk(weights.data(), static_cast<int>(weights.size()), number * weigh(kept))].second;
}

// Everything but `chosen`; returns the logarithm of the sum of exponentials.
double report_likeliest(const Kernels& kernels, const float* logits, int vocabulary, int count, float* scratch,
                        Logprobs& out) {
  const float highest = logits[kernels.argmax(logits, vocabulary)];
  const double normalizer = highest + std::log(kernels.exponentials(logits, vocabulary, highest, 1.0f, scratch));
  std::vector<std::int32_t> order(vocabulary);
  for (int i = 0; i < vocabulary; i++) order[i] = i;
  const auto end = order.begin() + std::min(count, vocabulary);
  std::partial_sort(order.begin(), end, order.end(), [&](std::int32_t a, std::int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  out.likeliest.clear();
  for (auto token = order.begin(); token != end; token++)
    out.likeliest.emplace_back(*token, static_cast<float>(logits[*token] - normalizer));
  return normalizer;
}

}  // namespace

bool Sampling::stops_at(std::int32_t token) const {
  return std::find(stop_token_ids.begin(), stop_token_ids.end(), token) != stop_token_ids.end();
}

std::int32_t choose_token(const Kernels& kernels, float* logits, int vocabulary, const Sampling& sampling,
                          const Place& place, float* scratch, Logprobs& logprobs) {
  if (sampling.logprobs < 0) {
    adjust(logits, vocabulary, sampling, place);
    return draw(kernels, logits, vocabulary, sampling, place.position, scratch);
  }
  const double normalizer = report_likeliest(kernels, logits, vocabulary, sampling.logprobs, scratch, logprobs);
  const std::vector<float> raw(logits, logits + vocabulary);
  adjust(logits, vocabulary, sampling, place);
  const std::int32_t token = draw(kernels, logits, vocabulary, sampling, place.position, scratch);
  logprobs.chosen = static_cast<float>(raw[token] - normalizer);
  return token;
}

float log_probability(const Kernels& kernels, const float* logits, int vocabulary, std::int32_t token, float* scratch) {
  const float highest = logits[kernels.argmax(logits, vocabulary)];
  const double total = kernels.exponentials(logits, vocabulary, highest, 1.0f, scratch);
  return static_cast<float>(static_cast<double>(logits[token]) - highest - std::log(total));
}

}  // namespace vivace
