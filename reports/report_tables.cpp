#include "reports/report_tables.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>

#include "fmt/format.h"
#include "reports/published.hpp"
#include "reports/stages.hpp"

namespace sage2 {
namespace {

/// Everything known of each row, for CSV.
Table full_summary(const std::vector<VariantSummary>& rows) {
  Table t;
  for (const char* title : {"label", "variant", "cells"}) t.columns.push_back({title});
  for (const char* group : {"average", "worst"}) {
    for (const auto& m : kMetrics) t.columns.push_back({m.name, Align::right, group});
  }
  for (const char* title : {"worst_cell", "largest_max_abs", "nonfinite_cells", "nan", "inf", "p_underflow", "p_total",
                            "saturated", "seconds"}) {
    t.columns.push_back({title});
  }
  for (const auto& r : rows) {
    std::vector<std::string> line{r.label, r.variant, fmt::format("{}", r.cells)};
    for (const auto* metrics : {&r.average, &r.worst}) {
      for (const auto& m : kMetrics) line.push_back(fmt::format("{}", metrics->*m.value));
    }
    line.push_back(r.worst_cell);
    line.push_back(fmt::format("{}", r.max_abs));
    for (const auto n : {std::uint64_t{r.nonfinite_cells}, r.counts.nan, r.counts.inf, r.counts.p_underflow,
                         r.counts.p_total, r.counts.saturated}) {
      line.push_back(fmt::format("{}", n));
    }
    line.push_back(fmt::format("{}", r.seconds));
    t.rows.push_back(std::move(line));
  }
  return t;
}

void add_published(Table& t, const std::string& suite) {
  for (const char* group : {"average", "worst"}) {
    const auto name = fmt::format("{} of CogVideoX (published)", group);
    t.columns.push_back({"CosSim (%)", Align::right, name});
    t.columns.push_back({"Rel. L1", Align::right, name});
    t.columns.push_back({"RMSE", Align::right, name});
  }
  for (auto& row : t.rows) {
    const auto* found = published_row(suite, row[0]);
    for (const bool worst : {false, true}) {
      if (found == nullptr) {
        row.insert(row.end(), 3, "-");
        continue;
      }
      const auto& p = worst ? found->worst : found->average;
      row.push_back(fmt::format("{:.2f}", 100 * p.cos_sim));
      row.push_back(fmt::format("{:.4f}", p.rel_l1));
      row.push_back(fmt::format("{:.4f}", p.rmse));
    }
  }
  t.notes.push_back(fmt::format(
      "The last six columns are another model's, as published ({}); they measure nothing here.", kPublishedSource));
}

bool has_published(const ShownSuite& shown) {
  return std::any_of(shown.rows.begin(), shown.rows.end(),
                     [&](const auto& r) { return published_row(shown.suite->name, r.label) != nullptr; });
}

}  // namespace

NamedTable summary_named(const std::string& name, const std::string& topic, const ModelCells& model,
                         const std::vector<VariantSummary>& rows) {
  NamedTable t{fmt::format("{}-{}", model.slug, name), topic, summary_table(table_heading(topic, model), rows),
               full_summary(rows)};
  t.link_column = t.printed.columns.size() - 1;
  for (const auto& r : rows) t.links.push_back({r.variant, r.worst_layer, r.worst_timestep});
  for (std::size_t r = 0; r < rows.size(); ++r) t.printed.rows[r][0] = rows[r].label;
  std::erase_if(t.printed.notes, [](const std::string& n) { return n.find(".. = ") != std::string::npos; });
  for (auto& c : t.printed.columns) {
    if (c.title == "CosSim%") c.title = "CosSim (%)";
    if (c.title == "RelL1") c.title = "Rel. L1";
  }
  t.printed.columns[0].title = "Method";
  t.printed.notes.insert(t.printed.notes.begin(),
                         "Average over cells; worst is the cell with the lowest CosSim, named by layer (L) and "
                         "timestep (T).");
  return t;
}

std::string table_heading(const std::string& topic, const ModelCells& model) {
  return fmt::format("{}: {}, {}", topic, model.title, extent_of(model));
}

std::string extent_of(const ModelCells& model) {
  std::set<int> layers;
  std::set<int> steps;
  std::set<std::pair<int, int>> cells;
  std::size_t least = SIZE_MAX;
  std::size_t most = 0;
  for (const auto& v : model.variants) {
    for (const auto& c : v.cells) {
      layers.insert(c.layer);
      steps.insert(c.timestep);
      cells.insert({c.layer, c.timestep});
      least = std::min(least, c.samples.size());
      most = std::max(most, c.samples.size());
    }
  }
  const auto count = [](std::size_t n, const char* what) { return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s"); };
  auto text = count(cells.size(), "cell") + " (" + count(layers.size(), "layer");
  if (steps.size() > 1) text += ", " + count(steps.size(), "timestep");
  text += "), ";
  return text + (least == most ? count(most, "sample") : fmt::format("{} to {} samples", least, most)) + " each";
}

std::vector<ShownSuite> shown_suites(const Report& report, const ModelCells& model) {
  std::vector<ShownSuite> shown;
  std::map<std::string, int> used;
  for (const auto& suite : report.suites) {
    auto rows = summarise(model, suite.rows);
    const int number = ++used[suite.name];
    const auto slug = slug_of(suite.name);
    if (!rows.empty()) {
      shown.push_back({number == 1 ? slug : fmt::format("{}-{}", slug, number), &suite, std::move(rows)});
    }
  }
  return shown;
}

std::vector<NamedTable> suite_tables(const Report& report, const ModelCells& model) {
  std::vector<NamedTable> tables;
  for (const auto& shown : shown_suites(report, model)) {
    auto t = summary_named(shown.name, shown.suite->title, model, shown.rows);
    if (shown.suite->name == "stages") t.printed.marked.clear();  // its rows are parts, none of them is a choice
    for (const auto& row : shown.suite->rows) {
      if (model.find(row.variant) == nullptr) t.printed.notes.push_back(fmt::format("{}: no records", row.label));
    }
    if (report.published && has_published(shown)) add_published(t.printed, shown.suite->name);
    tables.push_back(std::move(t));
  }
  return tables;
}

std::vector<VariantSummary> adaptive_rows(const Report& report, const ModelCells& model) {
  const auto pair = base_pair(model, report.map);
  if (!pair) return {};
  const bool one_step = has_one_step(model);
  const auto row = [&](const VariantCells& v) {
    return summarise_cells({fmt::format("{} everywhere", label_of(report, v.variant)), v.variant}, v.cells, one_step);
  };
  std::vector<VariantSummary> rows{row(*pair->base)};
  if (report.map) {
    const auto point = pareto_point(model, *pair, *report.map, metric_info("cos_sim"), report.bench);
    rows.push_back(summarise_cells({fmt::format("map, {} of {} cells", point.cells, pair->base->cells.size()), "map"},
                                   mixed_cells(model, *pair, *report.map), one_step));
  }
  rows.push_back(row(*pair->fallback));
  return rows;
}

}  // namespace sage2
