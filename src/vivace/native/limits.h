// What this machine can do at best: how fast it reads memory, which limits a decoding step, and how fast the tile loop
// multiplies, which limits a prompt.
#pragma once

#include <cstddef>
#include <string>

#include "linear.h"

namespace vivace {

// GB/s at which `threads` threads read `bytes` of memory over and over, the best of `passes` passes. What fits a cache
// is read from it, as a small model's weights are.
double measure_read_bandwidth(std::size_t bytes, int threads, int passes);

// Operations a second (a multiply and an add are two) of the kernel for `format` on the instruction set called `isa`
// ("": the best), on one tile for each thread that stays in its own cache; the best of `passes` passes.
double measure_multiply_rate(Format format, const std::string& isa, int threads, int passes);

}  // namespace vivace
