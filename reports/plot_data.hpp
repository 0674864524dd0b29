#pragma once

#include <vector>

#include "nlohmann/json.hpp"
#include "reports/report.hpp"
#include "reports/report_document.hpp"

/// The numbers behind the plots. scripts/plot_report.py draws them and computes nothing of its own.
namespace sage2 {

inline constexpr const char* kPlotSchema = "sage2-plots/1";

/// {"schema", "figures": [{"name", "kind", "model", "title", "caption", ...}]}; names are file names without ending.
/// Kinds: heatmaps, profile, distribution, difference, pareto, stages, speed (docs/reports.md).
[[nodiscard]] nlohmann::json plot_data(const Report& report);

/// Links to the plots of `plot_data` as files "plots/NAME.`ending`".
[[nodiscard]] std::vector<PlotLink> plot_links(const nlohmann::json& plots, const std::string& ending);

}  // namespace sage2
