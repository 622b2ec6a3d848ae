// Compiled for AVX2, FMA and F16C; called only where cpu.cpp has found them.
#include "kernels.h"

#include <immintrin.h>

namespace vivace {
namespace {
#include "simd_avx2.h"
#include "kernels_generic.h"
}  // namespace

extern const Kernels kernels_avx2 = make_kernels("avx2");

}  // namespace vivace
