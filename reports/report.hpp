#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "reports/adaptive.hpp"
#include "reports/bench.hpp"
#include "reports/metric.hpp"
#include "reports/model_cells.hpp"
#include "reports/record.hpp"

/// Everything a report is made of. Tables, plots and pages are functions of this value alone, so two reports of the
/// same records are the same to the last byte.
namespace sage2 {

struct ReportSelection {
  /// Canonical spellings, names or suite labels; empty for all.
  std::vector<std::string> variants;
  /// Which layers to keep; all where it is empty.
  std::function<bool(int)> layer;
};

struct Report {
  std::vector<ModelCells> models;
  std::vector<RunInfo> runs;         ///< in the order given
  std::vector<SuiteRow> variants;    ///< everything asked for in some run and not deselected, in order
  std::vector<SuiteInfo> suites;     ///< likewise; a suite of several runs is one where name and title agree
  std::vector<CellError> errors;     ///< cells that could not be evaluated
  std::vector<std::string> remarks;  ///< what a reader must know: cut-off lines, records counted once
  std::vector<const MetricInfo*> metrics = {&metric_info("rel_l1")};  ///< of the plots
  std::optional<AdaptiveMap> map;
  std::vector<BenchEntry> bench;
  bool published = false;  ///< the papers' figures beside one's own
  /// Canonical spellings A and B whose difference A - B is plotted.
  std::optional<std::pair<std::string, std::string>> difference;
};

/// Reads the runs. Throws DataError where a folder is no run, holds another schema, where two captures of one name
/// have different contents, and where there is no record at all; UsageError where the selection matches nothing.
[[nodiscard]] Report load_report(const std::vector<std::filesystem::path>& folders, const ReportSelection& selection);

/// Canonical spelling of what `text` means: itself, a name some record was asked for by, or a row's label. Throws
/// UsageError listing what there is.
[[nodiscard]] std::string resolve_variant(const Report& report, const std::string& text);

/// How tables and plots call a variant: its label, the canonical spelling where it has none.
[[nodiscard]] std::string label_of(const Report& report, const std::string& variant);

}  // namespace sage2
