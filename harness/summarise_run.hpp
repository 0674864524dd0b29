#pragma once

#include <string>

#include "reports/record.hpp"

namespace sage2 {

/// The summary of a run, for a terminal: one table a suite, and one for the variants that were asked for by name.
[[nodiscard]] std::string run_tables(const Run& run);

/// The same as JSON text.
[[nodiscard]] std::string run_json(const Run& run);

}  // namespace sage2
