#include "reports/summary.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {
namespace {

/// Width of a terminal line; labels that do not fit are cut in the table and spelt out in a note.
constexpr std::size_t kTableWidth = 80;
constexpr std::size_t kLeastLabelWidth = 12;

/// Cuts the labels in the first column to what the other columns leave of a line.
void fit_labels(Table& table) {
  std::size_t others = 0;
  for (std::size_t c = 1; c < table.columns.size(); ++c) {
    std::size_t width = table.columns[c].title.size();
    for (const auto& row : table.rows) width = std::max(width, row[c].size());
    others += 2 + width;
  }
  const std::size_t room = std::max(kLeastLabelWidth, kTableWidth - std::min(kTableWidth, others));
  for (auto& row : table.rows) {
    if (row[0].size() <= room) continue;
    auto shortened = row[0].substr(0, room - 2) + "..";
    table.notes.push_back(fmt::format("{} = {}", shortened, row[0]));
    row[0] = std::move(shortened);
  }
}

}  // namespace

bool is_worse(const CellStats& a, const CellStats& b) {
  const bool a_nan = std::isnan(a.metrics.cos_sim);
  const bool b_nan = std::isnan(b.metrics.cos_sim);
  if (a_nan != b_nan) return a_nan;
  if (!a_nan && a.metrics.cos_sim != b.metrics.cos_sim) return a.metrics.cos_sim < b.metrics.cos_sim;
  return a.metrics.rel_l1 > b.metrics.rel_l1;
}

VariantSummary summarise_cells(const SuiteRow& row, const std::vector<CellStats>& cells, bool one_step) {
  VariantSummary s;
  s.label = row.label;
  s.variant = row.variant;
  s.cells = cells.size();
  const auto n = static_cast<double>(cells.size());
  for (const auto& c : cells) {
    auto& a = s.average;
    a.cos_sim += c.metrics.cos_sim / n;
    a.rel_l1 += c.metrics.rel_l1 / n;
    a.rmse += c.metrics.rmse / n;
    a.max_abs += c.metrics.max_abs / n;
    a.p50 += c.metrics.p50 / n;
    a.p90 += c.metrics.p90 / n;
    a.p99 += c.metrics.p99 / n;
    a.p999 += c.metrics.p999 / n;
    s.max_abs = std::isnan(c.metrics.max_abs) ? c.metrics.max_abs : std::max(s.max_abs, c.metrics.max_abs);
    add(s.counts, c.counts);
    s.seconds += c.seconds;
    if (c.counts.nan + c.counts.inf > 0 || !std::isfinite(c.metrics.cos_sim)) ++s.nonfinite_cells;
  }
  const CellStats* w = worst_cell(cells);
  s.worst = w->metrics;
  s.worst_cell = long_name(*w, one_step);
  s.worst_cell_short = short_name(*w, one_step);
  s.worst_layer = w->layer;
  s.worst_timestep = w->timestep;
  return s;
}

const CellStats* worst_cell(const std::vector<CellStats>& cells) {
  const CellStats* found = nullptr;
  for (const auto& c : cells) {
    if (found == nullptr || is_worse(c, *found)) found = &c;
  }
  return found;
}

std::vector<VariantSummary> summarise(const ModelCells& model, const std::vector<SuiteRow>& rows) {
  std::vector<VariantSummary> result;
  const bool one_step = has_one_step(model);
  for (const auto& row : rows) {
    const auto* found = model.find(row.variant);
    if (found != nullptr && !found->cells.empty()) result.push_back(summarise_cells(row, found->cells, one_step));
  }
  return result;
}

std::vector<VariantSummary> summarise(const std::vector<Record>& records, const std::vector<SuiteRow>& rows) {
  const auto models = collect_cells(records);
  if (models.empty()) return {};
  if (models.size() > 1) {
    throw DataError(fmt::format("the records are of {} models ({}, {}, ...): an average over them means nothing",
                                models.size(), models[0].title, models[1].title));
  }
  return summarise(models.front(), rows);
}

Table summary_table(const std::string& title, const std::vector<VariantSummary>& rows) {
  Table table;
  table.title = title;
  table.columns = {{"", Align::left}};
  for (const char* group : {"average", "worst cell"}) {
    table.columns.push_back({"CosSim%", Align::right, group});
    table.columns.push_back({"RelL1", Align::right, group});
    table.columns.push_back({"RMSE", Align::right, group});
  }
  table.columns.push_back({"at", Align::left, "worst cell"});
  std::size_t most = 0;
  for (const auto& r : rows) {
    most = std::max(most, r.cells);
    std::vector<std::string> line{r.label};
    for (const auto* m : {&r.average, &r.worst}) {
      line.push_back(fmt::format("{:.2f}", 100 * m->cos_sim));
      line.push_back(fmt::format("{:.4f}", m->rel_l1));
      line.push_back(fmt::format("{:.4f}", m->rmse));
    }
    line.push_back(r.worst_cell_short);
    table.rows.push_back(std::move(line));
  }
  fit_labels(table);
  for (const std::size_t column : {1, 4}) mark_best(table, column, Better::higher);
  for (const std::size_t column : {2, 3, 5, 6}) mark_best(table, column, Better::lower);
  for (const auto& r : rows) {
    if (r.cells < most) table.notes.push_back(fmt::format("{}: only {} of {} cells", r.label, r.cells, most));
    if (r.nonfinite_cells > 0) {
      table.notes.push_back(fmt::format("{}: NaN or infinity in {} of {} cells", r.label, r.nonfinite_cells, r.cells));
    }
  }
  return table;
}

}  // namespace sage2
