#pragma once

#include <string>
#include <vector>

#include "reports/record.hpp"

namespace sage2 {

/// "sage2-eval 0.1.0 (commit, compiler)".
[[nodiscard]] std::string version_line();

/// Fills in everything about the program and the machine: version, commit, compiler, CPU, threads, start time.
[[nodiscard]] RunInfo machine_info();

/// The words this process was started with.
[[nodiscard]] std::vector<std::string> command_line();

}  // namespace sage2
