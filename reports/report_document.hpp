#pragma once

#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "reports/report.hpp"
#include "reports/report_tables.hpp"

/// A report as documents: Markdown, LaTeX, JSON.
namespace sage2 {

/// A plot that stands beside the tables.
struct PlotLink {
  std::string model;  ///< slug; empty where it belongs to none
  std::string file;   ///< relative to the document
  std::string title;
  std::string caption;
};

/// All tables (and `plots`) with headings, remarks and provenance.
[[nodiscard]] std::string report_markdown(const Report& report, const std::vector<PlotLink>& plots);

/// A document that shows all tables, each by \input{tables/NAME}.
[[nodiscard]] std::string report_latex(const Report& report);

/// Schema "sage2-report/1": the summaries with full precision, for scripts.
[[nodiscard]] nlohmann::json report_json(const Report& report);

/// Label and value of everything that says where the records come from, run by run.
[[nodiscard]] std::vector<std::vector<std::pair<std::string, std::string>>> provenance(const Report& report);

/// Every table of the report with the model it belongs to (empty for none), in order.
struct PlacedTable {
  std::string model;  ///< slug
  NamedTable table;
};
[[nodiscard]] std::vector<PlacedTable> report_tables(const Report& report);

/// A few sentences on what the records of a model say, most important first.
[[nodiscard]] std::vector<std::string> findings(const Report& report, const ModelCells& model);

}  // namespace sage2
