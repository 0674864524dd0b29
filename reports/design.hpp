#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "reports/budget.hpp"
#include "reports/cells.hpp"
#include "reports/costs.hpp"
#include "reports/rules.hpp"
#include "reports/score.hpp"

/// Makes a map: which variant every cell runs. Variant 0 of the table is the base, variant 1 the fallback; rules choose
/// between these two, budgets among all.
namespace sage2 {

enum class Rule {
  fraction,    ///< the paper's: the lowest fraction of scores
  min_score,   ///< every score below a minimum
  cosine,      ///< SageAttention1's: every cosine similarity not above a threshold
  first_last,  ///< the first and last n captured timesteps
  max_cost,    ///< least summed error within a cost
  max_error    ///< least cost within a mean error
};

/// "fraction", "min_score", "cosine_threshold", "first_last_steps", "max_cost", "max_error".
[[nodiscard]] const char* to_string(Rule rule);

struct MapRequest {
  Rule rule = Rule::fraction;
  /// The fraction, score, cosine, number of steps, cost (unit of the costs) or mean error over cells.
  double value = 0.3;
  Pooling pooling = Pooling::cell;
  Metric metric = Metric::rel_l1;  ///< the error that budgets sum and summaries state
};

/// A table with what designing needs computed once, so that many maps can be made from resampled draws.
struct Designer {
  Designer(const CellTable& cells, const Costs& cell_costs, const MapRequest& what);

  const CellTable& table;
  const Costs& costs;
  MapRequest request;
  Groups groups;
  SampleGrid ranking;  ///< of the base: the paper's score, or the cosine similarity for its rule
  SampleGrid error;    ///< the request's metric
};

struct MapDesign {
  std::vector<std::size_t> choice;       ///< per cell, index of its variant
  std::optional<BudgetSolution> budget;  ///< how it was solved, for the budget rules
};

/// `weights` as in `mean_over_samples`. Throws UsageError where no map keeps the budget, saying what the least is.
[[nodiscard]] MapDesign design_map(const Designer& designer, std::span<const double> weights = {});

/// Costs and errors of every group as a knapsack.
[[nodiscard]] BudgetItems budget_items(const Groups& groups, const CellGrid& costs, const CellGrid& errors);

/// A choice a group becomes a choice a cell.
[[nodiscard]] std::vector<std::size_t> spread_to_cells(const Groups& groups, const std::vector<std::size_t>& choices);

/// What a map is worth on some table.
struct MapSummary {
  double other_share = 0;  ///< share of cells that do not run the base
  double mean_error = 0, worst_error = 0;
  double mean_cos_sim = 0, worst_cos_sim = 0;
  double mean_rel_l1 = 0, worst_rel_l1 = 0;
  double mean_rmse = 0, worst_rmse = 0;
  double cost = 0;
  double speedup = 0;  ///< against all cells in the fallback: cost of that / cost of this
};

/// Means of metrics per (cell, variant), from which maps are summarised.
struct CellMeans {
  explicit CellMeans(const CellTable& table, Metric metric);
  CellGrid score, cos_sim, rel_l1, rmse, error;
};

[[nodiscard]] MapSummary summarise(const CellMeans& means, const CellGrid& costs,
                                   const std::vector<std::size_t>& choice);

/// Sum over cells of what each costs or errs under the map.
[[nodiscard]] double map_total(const CellGrid& grid, const std::vector<std::size_t>& choice);

}  // namespace sage2
