#pragma once

#include <string>

#include "reports/rank.hpp"

/// The result of a ranking for a terminal of 80 columns.
namespace sage2 {

struct RankTextOptions {
  bool colour = false;
  std::size_t worst = 10;  ///< cells in the list of the worst
};

[[nodiscard]] std::string rank_text(const RankResult& result, const RankTextOptions& options);

/// Why one cell runs what it runs. Throws UsageError where there is no such cell.
[[nodiscard]] std::string explain_text(const RankResult& result, int layer, int timestep);

}  // namespace sage2
