#pragma once

#include <optional>
#include <string>

#include "reports/bootstrap.hpp"
#include "reports/curve.hpp"
#include "reports/design.hpp"
#include "reports/holdout.hpp"
#include "reports/map.hpp"
#include "reports/sensitivity.hpp"

/// Everything `sage2-eval rank` finds out, as data; rank_text.hpp and rank_json.hpp only format it.
namespace sage2 {

struct RankRequest {
  MapRequest map;
  BootstrapOptions bootstrap;
};

/// Refers to the table and costs it was made from.
struct RankResult {
  Designer designer;
  MapDesign design;
  CellMeans means;
  std::vector<double> group_ranking;  ///< per group: what the rule sorts by
  MapSummary map, all_base, all_fallback;
  Bootstrap stability;
  Curve curve;
  std::optional<Holdout> holdout;
  std::optional<StageSensitivity> stages;

  [[nodiscard]] const CellTable& table() const { return designer.table; }
  [[nodiscard]] const std::string& name_of(std::size_t variant) const { return table().variants[variant].name; }
};

/// Makes the map, tests it on `unseen` where there is one (aligned with `table`), and judges its stability.
[[nodiscard]] RankResult rank_cells(const CellTable& table, const Costs& costs, const RankRequest& request,
                                    const CellTable* unseen = nullptr);

/// One sentence: which cells run what, and why.
[[nodiscard]] std::string describe_rule(const RankResult& result);

/// The map as a file holds it; the caller fills in the provenance.
[[nodiscard]] AdaptiveMap to_map(const RankResult& result);

}  // namespace sage2
