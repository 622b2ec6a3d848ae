#include "bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "cpu.h"
#include "memory.h"
#include "threads.h"

namespace vivace {
namespace {

constexpr std::size_t tile_bytes = std::size_t{256} << 10;
constexpr std::size_t tile_floats = tile_bytes / sizeof(float);

}  // namespace

double measure_read_bandwidth(std::size_t bytes, int threads, int passes) {
  const int tiles = static_cast<int>((bytes + tile_bytes - 1) / tile_bytes);
  Array<float> values(tiles * tile_floats);
  ThreadTeam team(threads);
  const Kernels& kernels = select_kernels("");
  team.for_each(tiles, [&](int tile, int) { std::fill_n(&values[tile * tile_floats], tile_floats, 1.0f); });
  std::atomic<int> full_tiles{0};  // read at the end, so that no sum can be left out
  double best = 0;
  for (int pass = 0; pass < passes; pass++) {
    const auto start = std::chrono::steady_clock::now();
    team.for_each(tiles, [&](int tile, int) {
      const float sum = kernels.sum_floats(&values[tile * tile_floats], tile_floats);
      full_tiles.fetch_add(sum == static_cast<float>(tile_floats), std::memory_order_relaxed);
    });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(tiles) * tile_bytes / elapsed.count() / 1e9);
  }
  return full_tiles == tiles * passes ? best : 0;
}

}  // namespace vivace
