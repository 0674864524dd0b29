#include "reports/sensitivity.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "reports/cells.hpp"

namespace sage2 {
namespace {

const std::string& variant_of(const SuiteInfo& suite, const std::string& label) {
  const auto row =
      std::find_if(suite.rows.begin(), suite.rows.end(), [&](const SuiteRow& r) { return r.label == label; });
  if (row == suite.rows.end()) {
    throw DataError(fmt::format("suite \"{}\" ({}) has no row \"{}\"", suite.name, suite.title, label));
  }
  return row->variant;
}

const SuiteInfo* find_suite(std::span<const Run> runs, const std::string& base) {
  const SuiteInfo* first = nullptr;
  for (const Run& run : runs) {
    for (const SuiteInfo& suite : run.info.suites) {
      if (suite.name != "stages") continue;
      if (variant_of(suite, "all") == base) return &suite;
      if (first == nullptr) first = &suite;
    }
  }
  return first;
}

/// Rows may share a variant: without the accumulator's rounding nothing may be left to quantise.
class Columns {
 public:
  std::size_t of(const std::string& variant, const std::string& label) {
    const auto [it, fresh] = index_.try_emplace(variant, variants_.size());
    if (fresh) variants_.push_back({variant, label});
    return it->second;
  }
  [[nodiscard]] const std::vector<VariantId>& variants() const { return variants_; }

 private:
  std::map<std::string, std::size_t> index_;
  std::vector<VariantId> variants_;
};

/// Whole percent; a plain number, so that no "-0" is printed.
long percent(double share) {
  return std::lround(100 * share);
}

void add(StageErrors& into, const StageErrors& more) {
  into.all += more.all;
  for (std::size_t s = 0; s < kStages.size(); ++s) {
    into.only[s] += more.only[s];
    into.without[s] += more.without[s];
  }
}

}  // namespace

double StageErrors::interaction() const {
  return of_all(all - std::accumulate(only.begin(), only.end(), 0.0));
}

std::optional<StageSensitivity> stage_sensitivity(std::span<const Run> runs, const std::string& base) {
  const SuiteInfo* suite = find_suite(runs, base);
  if (suite == nullptr) return std::nullopt;
  Columns columns;
  const std::size_t all = columns.of(variant_of(*suite, "all"), "all");
  std::array<std::size_t, kStages.size()> only{};
  std::array<std::size_t, kStages.size()> without{};
  for (std::size_t s = 0; s < kStages.size(); ++s) {
    const auto label = [&](const char* how) { return fmt::format("{} {}", how, kStages[s]); };
    only[s] = columns.of(variant_of(*suite, label("only")), label("only"));
    without[s] = columns.of(variant_of(*suite, label("without")), label("without"));
  }
  // Cells that were only evaluated in other variants have no share in this.
  const CellTable table = pool_cells(runs, columns.variants());
  StageSensitivity stages{suite->title, columns.variants()[all].variant, {}};
  for (std::size_t c = 0; c < table.cells.size(); ++c) {
    CellStages cell{table.cells[c].layer, table.cells[c].timestep, {}};
    for (std::size_t i = 0; i < table.cells[c].samples(); ++i) {
      cell.errors.all += table.at(c, i, all).sq_err;
      for (std::size_t s = 0; s < kStages.size(); ++s) {
        cell.errors.only[s] += table.at(c, i, only[s]).sq_err;
        cell.errors.without[s] += table.at(c, i, without[s]).sq_err;
      }
    }
    stages.cells.push_back(cell);
  }
  return stages;
}

Table sensitivity_table(const StageSensitivity& stages) {
  std::map<int, StageErrors> layers;
  for (const auto& cell : stages.cells) add(layers[cell.layer], cell.errors);
  Table table;
  table.title = stages.title;
  table.columns = {{"layer", Align::right}};
  for (const char* stage : kStages) table.columns.push_back({stage, Align::right});
  table.columns.push_back({"interaction", Align::right});
  for (const auto& [layer, errors] : layers) {
    std::vector<std::string> row{std::to_string(layer)};
    for (std::size_t s = 0; s < kStages.size(); ++s) {
      row.push_back(fmt::format("{}/{}", percent(errors.share(s)), percent(errors.saved(s))));
    }
    row.push_back(std::to_string(percent(errors.interaction())));
    table.rows.push_back(std::move(row));
  }
  table.notes = {"Percent of squared error: by the stage alone / saved if it alone were exact.",
                 "Interaction: what the stages together cause beyond the sum of each alone."};
  return table;
}

}  // namespace sage2
