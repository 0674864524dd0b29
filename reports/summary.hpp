#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "reports/model_cells.hpp"
#include "reports/table.hpp"

/// Average and worst over cells, as the papers print them.
namespace sage2 {

/// One row of an ablation table.
struct VariantSummary {
  std::string label;
  std::string variant;  ///< canonical spelling
  std::size_t cells = 0;
  std::size_t nonfinite_cells = 0;  ///< cells whose output holds NaN or infinity
  /// Mean over cells of each of the cell's metrics (the samples of a cell are pooled first). NaN as soon as one cell
  /// is NaN: a variant that breaks somewhere has no average.
  ErrorMetrics average;
  /// All metrics of one cell: the one with the lowest cos_sim. A NaN is worse than any number; among equals the
  /// higher rel_l1, then the first cell counts.
  ErrorMetrics worst;
  std::string worst_cell;        ///< "layer 2 (blocks.2.attn), timestep 12"
  std::string worst_cell_short;  ///< "L2 T12"
  int worst_layer = 0, worst_timestep = 0;
  double max_abs = 0;  ///< largest error anywhere
  EventCounts counts;
  double seconds = 0;
};

/// One row for each of `rows` that has records, in that order; rows without records are left out.
[[nodiscard]] std::vector<VariantSummary> summarise(const ModelCells& model, const std::vector<SuiteRow>& rows);

/// As above, for records of a single model. Throws DataError where they mix models: use `collect_cells`.
[[nodiscard]] std::vector<VariantSummary> summarise(const std::vector<Record>& records,
                                                    const std::vector<SuiteRow>& rows);

/// One row over any cells, at least one.
[[nodiscard]] VariantSummary summarise_cells(const SuiteRow& row, const std::vector<CellStats>& cells, bool one_step);

/// True where cell a is worse than b in the sense of `VariantSummary::worst`.
[[nodiscard]] bool is_worse(const CellStats& a, const CellStats& b);

/// The worst cell; nullptr for no cells.
[[nodiscard]] const CellStats* worst_cell(const std::vector<CellStats>& cells);

/// At most 80 columns wide as text: label, CosSim in percent, relative L1 and RMSE of average and worst cell, the worst
/// cell's name. The best value of each column is marked (ties at the printed precision share the mark). Notes say where
/// rows cover fewer cells than others, where outputs hold NaN or infinity, and what a shortened label stands for.
[[nodiscard]] Table summary_table(const std::string& title, const std::vector<VariantSummary>& rows);

}  // namespace sage2
