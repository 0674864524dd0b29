#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "reports/report_tables.hpp"

/// The tables of a report beyond the suites.
namespace sage2 {

/// The model's other tables: all variants, tails and events, quantiles over cells, worst cells, stages, adaptive map.
[[nodiscard]] std::vector<NamedTable> detail_tables(const Report& report, const ModelCells& model);

/// Milliseconds and TOPS by variant and shape; no rows without a benchmark file.
[[nodiscard]] NamedTable speed_table(const Report& report);

/// One line for each variant and cell, all metrics with full precision, as CSV.
[[nodiscard]] std::string cells_csv(const Report& report, const ModelCells& model);

/// The `count` worst cells of a variant, worst first, in the order of `worst_cell`.
[[nodiscard]] std::vector<const CellStats*> worst_cells(const VariantCells& variant, std::size_t count);

}  // namespace sage2
