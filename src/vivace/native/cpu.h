// Which kernels this machine can run.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace vivace {

// Names of the kernel tables this machine can run, best first.
std::vector<std::string> supported_isas();

// The table called `name`, or the best one for "". Throws std::invalid_argument for a name this machine cannot run.
const Kernels& select_kernels(const std::string& name);

}  // namespace vivace
