#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <utility>

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

// The heaviest tokens, heaviest first (of equals, the lowest id): at least the top_k ones, or enough of them to hold
// the mass asked for; all tokens within a halving bound of the heaviest are gathered, so that few are ever sorted.
std::vector<Candidate> gather_heaviest(const float* weights, int vocabulary, int top_k, double mass) {
  std::vector<Candidate> candidates;
  for (float bound = 0x1.0p-4f;; bound *= bound) {
    candidates.clear();
    double gathered = 0;
    for (int i = 0; i < vocabulary; i++)
      if (weights[i] > 0 && weights[i] >= bound) {
        candidates.emplace_back(weights[i], i);
        gathered += weights[i];
      }
    const bool enough = top_k > 0 && static_cast<int>(candidates.size()) >= top_k;
    if (enough || (top_k == 0 && gathered >= mass) || bound == 0) break;
  }
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  });
  return candidates;
}

// The shortest prefix whose weights add up to `share` of all candidates'; at least one.
std::size_t count_nucleus(const std::vector<Candidate>& candidates, double share) {
  double total = 0, gathered = 0;
  for (const Candidate& candidate : candidates) total += candidate.first;
  std::size_t count = 0;
  while (count < candidates.size() && (count == 0 || gathered < share * total)) gathered += candidates[count++].first;
  return count;
}

}  // namespace

bool Sampling::stops_at(std::int32_t token) const {
  return std::find(stop_token_ids.begin(), stop_token_ids.end(), token) != stop_token_ids.end();
}

std::int32_t sample(const Kernels& kernels, const float* logits, int vocabulary, const Sampling& sampling,
                    std::int64_t position, float* scratch) {
  const int best = kernels.argmax(logits, vocabulary);
  if (sampling.temperature <= 0 || sampling.top_k == 1) return best;
  const double total = kernels.exponentials(logits, vocabulary, logits[best], 1 / sampling.temperature, scratch);
  const double number = random_number(sampling.seed, position);
  const bool all = sampling.top_k == 0 || sampling.top_k >= vocabulary;
  if (all && sampling.top_p >= 1) return walk(scratch, vocabulary, number * total);

  std::vector<Candidate> kept =
      gather_heaviest(scratch, vocabulary, all ? 0 : sampling.top_k, static_cast<double>(sampling.top_p) * total);
  if (!all && kept.size() > static_cast<std::size_t>(sampling.top_k)) kept.resize(sampling.top_k);
  // Without top-k the candidates may stop short of the vocabulary, so the share is of the total.
  if (sampling.top_p < 1) {
    double gathered_total = 0;
    for (const Candidate& candidate : kept) gathered_total += candidate.first;
    kept.resize(count_nucleus(kept, all ? sampling.top_p * total / gathered_total : sampling.top_p));
  }
  std::vector<float> weights(kept.size());
  double kept_total = 0;
  for (std::size_t i = 0; i < kept.size(); i++) kept_total += weights[i] = kept[i].first;
  return kept[walk(weights.data(), static_cast<int>(weights.size()), number * kept_total)].second;
}

float log_probability(const Kernels& kernels, const float* logits, int vocabulary, std::int32_t token, float* scratch) {
  const float highest = logits[kernels.argmax(logits, vocabulary)];
  const double total = kernels.exponentials(logits, vocabulary, highest, 1.0f, scratch);
  return static_cast<float>(static_cast<double>(logits[token]) - highest - std::log(total));
}

}  // namespace vivace
