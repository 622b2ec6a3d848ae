// Compiled for AVX-512 F, BW, DQ, VL and VNNI; called only where cpu.cpp has found them.
#include "kernels.h"

#include <immintrin.h>

namespace vivace {
namespace {
#include "simd_avx512.h"
#include "kernels_generic.h"
}  // namespace

extern const Kernels kernels_avx512 = make_kernels("avx512");

}  // namespace vivace
