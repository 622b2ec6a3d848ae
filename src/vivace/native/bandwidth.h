// How fast this machine reads memory: the limit of a decoding step, which reads every weight once.
#pragma once

#include <cstddef>

namespace vivace {

// GB/s at which `threads` threads read `bytes` of memory over and over, the best of `passes` passes. What fits a cache
// is read from it, as a small model's weights are.
double measure_read_bandwidth(std::size_t bytes, int threads, int passes);

}  // namespace vivace
