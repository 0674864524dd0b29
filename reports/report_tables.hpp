#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "reports/report.hpp"
#include "reports/summary.hpp"
#include "reports/table.hpp"

/// Ablation tables, and what every table of a report is made of.
namespace sage2 {

/// The cell that a row of a table speaks of.
struct CellLink {
  std::string variant;  ///< canonical spelling
  int layer = 0, timestep = 0;
};

/// A table twice: as a paper prints it, and with full precision for CSV files and scripts.
struct NamedTable {
  std::string name;   ///< file name without ending, stable: "dit-smoothing"
  std::string topic;  ///< the title without the model and its extent
  Table printed;
  Table full;
  std::size_t link_column = 0;       ///< the printed column that names a cell
  std::vector<CellLink> links = {};  ///< one a row, or empty
};

/// Ablation tables of one model: one for each suite with records (rows without records are left out and noted).
[[nodiscard]] std::vector<NamedTable> suite_tables(const Report& report, const ModelCells& model);

/// Suite rows as the tables show them, with the file name of each suite ("smoothing", "stages", "stages-2").
struct ShownSuite {
  std::string name;
  const SuiteInfo* suite = nullptr;
  std::vector<VariantSummary> rows;
};

/// The suites with at least one row of records.
[[nodiscard]] std::vector<ShownSuite> shown_suites(const Report& report, const ModelCells& model);

/// Summary of the adaptive mix: the base everywhere, the map (where there is one), the fallback everywhere.
[[nodiscard]] std::vector<VariantSummary> adaptive_rows(const Report& report, const ModelCells& model);

/// A summary as a paper prints it, named "MODEL-`name`"; says what "worst" means.
[[nodiscard]] NamedTable summary_named(const std::string& name, const std::string& topic, const ModelCells& model,
                                       const std::vector<VariantSummary>& rows);

/// "TOPIC: MODEL, EXTENT", for tables that leave the report.
[[nodiscard]] std::string table_heading(const std::string& topic, const ModelCells& model);

/// "40 cells (8 layers, 5 timesteps), 1 sample each".
[[nodiscard]] std::string extent_of(const ModelCells& model);

}  // namespace sage2
