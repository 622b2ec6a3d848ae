#include "cpu.h"

#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace vivace {
namespace {

struct Choice {
  const Kernels* kernels;
  bool (*runs_here)();
};

#if defined(__x86_64__)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool has_avxvnni() {
  unsigned a, b, c, d;  // CPUID leaf 7, subleaf 1, EAX bit 4; compilers learnt its name late
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

const Choice choices[] = {
#if defined(__x86_64__)
    {&kernels_avx512, has_avx512},
    {&kernels_avxvnni, has_avxvnni},
    {&kernels_avx2, has_avx2},
#endif
    {&kernels_portable, [] { return true; }},
};

}  // namespace

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Choice& choice : choices)
    if (choice.runs_here()) names.emplace_back(choice.kernels->name);
  return names;
}

const Kernels& select_kernels(const std::string& name) {
  std::string known;
  for (const Choice& choice : choices) {
    if (choice.runs_here() && (name.empty() || name == choice.kernels->name)) return *choice.kernels;
    if (choice.runs_here()) known += std::string(known.empty() ? "" : ", ") + choice.kernels->name;
  }
  throw std::invalid_argument("instruction set '" + name + "' cannot run here; this machine runs: " + known);
}

}  // namespace vivace
