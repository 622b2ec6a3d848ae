// Compiled for AVX2, FMA, F16C and AVX-VNNI; called only where cpu.cpp has found them.
#include "kernels.h"

#include <immintrin.h>

namespace vivace {
namespace {
#include "simd_avx2.h"
#include "kernels_generic.h"
}  // namespace

extern const Kernels kernels_avxvnni = make_kernels("avxvnni");

}  // namespace vivace
