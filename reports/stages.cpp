#include "reports/stages.hpp"

#include <map>
#include <string_view>
#include <utility>

#include "fmt/format.h"

namespace sage2 {
namespace {

constexpr std::string_view kOnly = "only ";

/// Squared error of a variant by layer.
std::map<int, double> squared_errors(const VariantCells& v) {
  std::map<int, double> sums;
  for (const auto& c : v.cells) sums[c.layer] += c.sums.sq_err;
  return sums;
}

StageShares shares_of(std::string name, const std::vector<double>& only, double all) {
  StageShares s{std::move(name), {}, 1};
  for (const double sq_err : only) {
    s.shares.push_back(all > 0 ? sq_err / all : 0);
    s.interaction -= s.shares.back();
  }
  return s;
}

}  // namespace

std::optional<StageAnalysis> analyse_stages(const ModelCells& model, const SuiteInfo& suite) {
  if (suite.name != "stages") return std::nullopt;
  StageAnalysis analysis;
  std::vector<std::map<int, double>> only;
  std::optional<std::map<int, double>> all;
  for (const auto& row : suite.rows) {
    const auto* cells = model.find(row.variant);
    if (cells == nullptr) continue;
    if (row.label == "all") all = squared_errors(*cells);
    if (row.label.rfind(kOnly, 0) == 0) {
      analysis.stages.push_back(row.label.substr(kOnly.size()));
      only.push_back(squared_errors(*cells));
    }
  }
  if (!all || only.empty()) return std::nullopt;
  std::vector<double> totals(only.size());
  double total = 0;
  for (const auto& [layer, sq_err] : *all) {
    std::vector<double> parts;
    for (std::size_t i = 0; i < only.size(); ++i) {
      parts.push_back(only[i][layer]);
      totals[i] += parts.back();
    }
    total += sq_err;
    analysis.layers.push_back(shares_of(fmt::format("layer {}", layer), parts, sq_err));
  }
  analysis.whole = shares_of("all cells", totals, total);
  return analysis;
}

}  // namespace sage2
