#include "limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

#include "cpu.h"
#include "memory.h"
#include "pack.h"
#include "threads.h"

namespace vivace {
namespace {

constexpr std::size_t tile_bytes = std::size_t{256} << 10;
constexpr std::size_t tile_floats = tile_bytes / sizeof(float);

// Seconds of the fastest of `passes` calls.
template <class Pass>
double time_fastest(int passes, Pass&& pass) {
  double best = 1e30;
  for (int i = 0; i < passes; i++) {
    const auto start = std::chrono::steady_clock::now();
    pass();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace

double measure_read_bandwidth(std::size_t bytes, int threads, int passes) {
  const int tiles = static_cast<int>((bytes + tile_bytes - 1) / tile_bytes);
  Array<float> values(tiles * tile_floats);
  ThreadTeam team(threads);
  const Kernels& kernels = select_kernels("");
  team.for_each(tiles, [&](int tile, int) { std::fill_n(&values[tile * tile_floats], tile_floats, 1.0f); });
  std::atomic<int> full_tiles{0};  // read at the end, so that no sum can be left out
  const double seconds = time_fastest(passes, [&] {
    team.for_each(tiles, [&](int tile, int) {
      const float sum = kernels.sum_floats(&values[tile * tile_floats], tile_floats);
      full_tiles.fetch_add(sum == static_cast<float>(tile_floats), std::memory_order_relaxed);
    });
  });
  return full_tiles == tiles * passes ? static_cast<double>(tiles) * tile_bytes / seconds / 1e9 : 0;
}

double measure_multiply_rate(Format format, const std::string& isa, int threads, int passes) {
  constexpr int inputs = 1024, outputs = 64, rows = 48, repeats = 20;
  const Kernels& kernels = select_kernels(isa);
  ThreadTeam team(threads);
  const std::vector<float> matrix(static_cast<std::size_t>(inputs) * outputs, 0.5f), values(rows * inputs, 0.25f);
  const PackedLinear linear =
      pack({format}, {{.data = matrix.data(), .type = SourceType::f32, .rows = outputs}}, inputs, Stacking::rows, team);
  Array<std::int8_t> codes(rows * inputs);
  std::vector<float> scales(rows * inputs / activation_group), outlier_values(rows * max_outliers);
  std::vector<std::int32_t> sums(rows * inputs / sum_group), outliers(rows), outlier_inputs(rows * max_outliers);
  const Activations in{values.data(),         inputs,           codes.data(), inputs,
                       scales.data(),         inputs / activation_group, sums.data(), inputs / sum_group,
                       outliers.data(),       outlier_inputs.data(),     outlier_values.data()};
  for (int row = 0; row < rows; row++) kernels.quantize_row(values.data() + row * inputs, inputs, inputs, row, in);
  std::vector<std::vector<float>> outs(threads, std::vector<float>(static_cast<std::size_t>(rows) * outputs));
  const double seconds = time_fastest(passes, [&] {
    team.for_each(threads, [&](int tile, int) {
      const LinearTile whole{0, linear.blocks(), 0, rows, outs[tile].data(), outputs, false};
      for (int i = 0; i < repeats; i++) kernel_for(kernels, format)(linear.view(), in, whole);
    });
  });
  return 2.0 * inputs * outputs * rows * repeats * threads / seconds;
}

}  // namespace vivace
