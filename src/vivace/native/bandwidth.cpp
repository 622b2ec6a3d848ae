#include "bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "memory.h"
#include "threads.h"

namespace vivace {
namespace {

constexpr std::size_t tile_bytes = std::size_t{256} << 10;

std::uint64_t sum_words(const std::uint64_t* words, std::size_t count) {
  std::uint64_t sums[8] = {};  // independent, so that additions do not wait for each other
  for (std::size_t i = 0; i + 8 <= count; i += 8)
    for (int j = 0; j < 8; j++) sums[j] += words[i + j];
  std::uint64_t total = 0;
  for (const std::uint64_t sum : sums) total += sum;
  return total;
}

}  // namespace

double measure_read_bandwidth(std::size_t bytes, int threads, int passes) {
  const int tiles = static_cast<int>((bytes + tile_bytes - 1) / tile_bytes);
  const std::size_t words_per_tile = tile_bytes / sizeof(std::uint64_t);
  Array<std::uint64_t> words(tiles * words_per_tile);
  ThreadTeam team(threads);
  team.for_each(tiles, [&](int tile, int) { std::memset(&words[tile * words_per_tile], tile + 1, tile_bytes); });
  std::atomic<std::uint64_t> sink{0};
  double best = 0;
  for (int pass = 0; pass < passes; pass++) {
    const auto start = std::chrono::steady_clock::now();
    team.for_each(tiles, [&](int tile, int) {
      sink.fetch_add(sum_words(&words[tile * words_per_tile], words_per_tile), std::memory_order_relaxed);
    });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(tiles) * tile_bytes / elapsed.count() / 1e9);
  }
  return best;
}

}  // namespace vivace
