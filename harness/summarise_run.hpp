#pragma once

#include <optional>
#include <string>

#include "reports/map.hpp"
#include "reports/record.hpp"

namespace sage2 {

/// The summary of a run, for a terminal: one table a suite, and one for the variants that were asked for by name. With
/// an adaptive map, one more for the map as evaluated: each cell under the variant that the map runs there.
[[nodiscard]] std::string run_tables(const Run& run, const std::optional<AdaptiveMap>& map);

/// The same as JSON text.
[[nodiscard]] std::string run_json(const Run& run, const std::optional<AdaptiveMap>& map);

}  // namespace sage2
