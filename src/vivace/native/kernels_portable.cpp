// Compiled for the compiler's base instruction set: runs anywhere.
#include "kernels.h"

namespace vivace {
namespace {
#include "simd_portable.h"
#include "kernels_generic.h"
}  // namespace

extern const Kernels kernels_portable = make_kernels("portable");

}  // namespace vivace
