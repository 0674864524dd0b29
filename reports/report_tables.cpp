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

/// Fills the printed and the full table side by side.
class Builder {
 public:
  explicit Builder(std::string name, std::string title) { out_.name = std::move(name), out_.printed.title = title; }

  void column(std::string title, std::string full_title, Align align = Align::right, std::string group = {}) {
    out_.printed.columns.push_back({std::move(title), align, std::move(group)});
    out_.full.columns.push_back({std::move(full_title), align});
  }
  void row() {
    out_.printed.rows.emplace_back();
    out_.full.rows.emplace_back();
  }
  void text(const std::string& value) { put(value, value); }
  /// `scale` turns fractions into percent in print only.
  void fixed(double value, int decimals, double scale = 1) {
    put(fmt::format("{:.{}f}", scale * value, decimals), full(value));
  }
  void significant(double value, int digits) { put(fmt::format("{:.{}g}", value, digits), full(value)); }
  /// Makes the row's value in column `column` a link to a cell.
  void link(std::size_t column, CellLink cell) {
    out_.link_column = column;
    out_.links.push_back(std::move(cell));
  }
  void note(std::string text) { out_.printed.notes.push_back(std::move(text)); }
  NamedTable take() { return std::move(out_); }

 private:
  static std::string full(double value) { return fmt::format("{}", value); }
  void put(std::string printed, std::string full) {
    out_.printed.rows.back().push_back(std::move(printed));
    out_.full.rows.back().push_back(std::move(full));
  }
  NamedTable out_;
};

double share(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

std::string heading(const std::string& what, const ModelCells& model) {
  return fmt::format("{}: {}, {}", what, model.title, extent_of(model));
}

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

/// A summary in print: wider titles than in a terminal, and what "worst" means.
NamedTable printed_summary(std::string name, const std::string& title, const std::vector<VariantSummary>& rows) {
  NamedTable t{std::move(name), summary_table(title, rows), full_summary(rows)};
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

NamedTable tails_table(const ModelCells& model, const std::vector<VariantSummary>& rows) {
  Builder b(model.slug + "-tails", heading("Tails of the element error and events", model));
  b.column("Method", "label", Align::left);
  const char* group = "|O - O'|, mean over cells";
  for (const auto& [title, full] :
       {std::pair{"50%", "p50"}, {"90%", "p90"}, {"99%", "p99"}, {"99.9%", "p999"}, {"max", "mean_max_abs"}}) {
    b.column(title, full, Align::right, group);
  }
  b.column("largest", "largest_max_abs");
  b.column("P to zero (%)", "p_underflow_share", Align::right, "events");
  b.column("clamped", "saturated", Align::right, "events");
  b.column("NaN or inf", "nonfinite", Align::right, "events");
  for (const auto& r : rows) {
    b.row();
    b.text(r.label);
    for (const double v : {r.average.p50, r.average.p90, r.average.p99, r.average.p999, r.average.max_abs, r.max_abs}) {
      b.significant(v, 3);
    }
    b.fixed(share(r.counts.p_underflow, r.counts.p_total), 2, 100);
    b.text(fmt::format("{}", r.counts.saturated));
    b.text(fmt::format("{}", r.counts.nan + r.counts.inf));
  }
  b.note("P to zero: visible entries of P that round to zero. Clamped: codes of Q, K, V and P beyond their format.");
  return b.take();
}

std::vector<double> sorted_metric(const VariantCells& v, double ErrorMetrics::*metric) {
  std::vector<double> values;
  for (const auto& c : v.cells) values.push_back(c.metrics.*metric);
  // NaN is worse than any number, whichever end is the bad one: it must not vanish between the others.
  if (std::any_of(values.begin(), values.end(), [](double x) { return std::isnan(x); })) return {};
  std::sort(values.begin(), values.end());
  return values;
}

NamedTable quantiles_table(const Report& report, const ModelCells& model) {
  Builder b(model.slug + "-quantiles", heading("Quantiles over cells, from good to bad", model));
  b.column("Method", "label", Align::left);
  constexpr std::array<double, 5> kGoodToBad{0.1, 0.5, 0.9, 0.99, 1};
  constexpr std::array<const char*, 5> kTitles{"10%", "50%", "90%", "99%", "worst"};
  for (const auto& [group, name] : {std::pair{"CosSim (%)", "cos_sim"}, {"Rel. L1", "rel_l1"}, {"RMSE", "rmse"}}) {
    for (const char* title : kTitles) b.column(title, fmt::format("{} {}", name, title), Align::right, group);
  }
  for (const auto& row : report.variants) {
    const auto* v = model.find(row.variant);
    if (v == nullptr) continue;
    b.row();
    b.text(row.label);
    for (const char* name : {"cos_sim", "rel_l1", "rmse"}) {
      const auto& metric = metric_info(name);
      const auto values = sorted_metric(*v, metric.value);
      for (const double q : kGoodToBad) {
        const double value = quantile(values, metric.higher_is_better ? 1 - q : q);
        b.fixed(value, metric.higher_is_better ? 2 : 4, metric.higher_is_better ? 100 : 1);
      }
    }
  }
  return b.take();
}

NamedTable worst_table(const Report& report, const ModelCells& model) {
  constexpr std::size_t kWorst = 3;
  Builder b(model.slug + "-worst-cells", heading(fmt::format("The {} worst cells of each method", kWorst), model));
  b.column("Method", "label", Align::left);
  b.column("Cell", "cell", Align::left);
  b.column("CosSim (%)", "cos_sim");
  b.column("Rel. L1", "rel_l1");
  b.column("RMSE", "rmse");
  b.column("max |O - O'|", "max_abs");
  b.column("Worst head", "worst_head");
  b.column("its CosSim (%)", "worst_head_cos_sim");
  const bool one_step = has_one_step(model);
  for (const auto& row : report.variants) {
    const auto* v = model.find(row.variant);
    if (v == nullptr) continue;
    for (const auto* c : worst_cells(*v, kWorst)) {
      b.row();
      b.text(row.label);
      b.text(long_name(*c, one_step));
      b.link(1, {v->variant, c->layer, c->timestep});
      b.fixed(c->metrics.cos_sim, 2, 100);
      b.fixed(c->metrics.rel_l1, 4);
      b.fixed(c->metrics.rmse, 4);
      b.significant(c->metrics.max_abs, 3);
      const auto head = std::min_element(c->heads.begin(), c->heads.end(), [](const HeadCell& x, const HeadCell& y) {
        return x.metrics.cos_sim < y.metrics.cos_sim;
      });
      if (head == c->heads.end()) {
        b.text("-");
        b.text("-");
      } else {
        b.text(fmt::format("{}", head->head));
        b.fixed(head->metrics.cos_sim, 2, 100);
      }
    }
  }
  return b.take();
}

NamedTable stages_table(const ModelCells& model, const ShownSuite& shown, const StageAnalysis& analysis) {
  Builder b(fmt::format("{}-{}-shares", model.slug, shown.name), heading(shown.suite->title, model));
  b.column("Stage", "stage", Align::left);
  b.column("share (%)", "share", Align::right, "of the squared error");
  b.column("least (%)", "least_share", Align::right, "by layer");
  b.column("most (%)", "most_share", Align::right, "by layer");
  const auto line = [&](const std::string& name, double value, const auto& of_layer) {
    b.row();
    b.text(name);
    b.fixed(value, 1, 100);
    std::vector<double> values;
    for (const auto& layer : analysis.layers) values.push_back(of_layer(layer));
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    b.fixed(*least, 1, 100);
    b.fixed(*most, 1, 100);
  };
  for (std::size_t i = 0; i < analysis.stages.size(); ++i) {
    line(analysis.stages[i], analysis.whole.shares[i], [i](const StageShares& s) { return s.shares[i]; });
  }
  line("interaction", analysis.whole.interaction, [](const StageShares& s) { return s.interaction; });
  b.note(
      "Squared error with only this stage quantised over the squared error with all of them. Interaction is the "
      "rest: positive where stages amplify each other, negative where they cancel.");
  return b.take();
}

}  // namespace

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
    auto t =
        printed_summary(fmt::format("{}-{}", model.slug, shown.name), heading(shown.suite->title, model), shown.rows);
    for (const auto& row : shown.suite->rows) {
      if (model.find(row.variant) == nullptr) t.printed.notes.push_back(fmt::format("{}: no records", row.label));
    }
    if (report.published && has_published(shown)) add_published(t.printed, shown.suite->name);
    tables.push_back(std::move(t));
  }
  return tables;
}

std::vector<const CellStats*> worst_cells(const VariantCells& variant, std::size_t count) {
  std::vector<const CellStats*> cells;
  for (const auto& c : variant.cells) cells.push_back(&c);
  count = std::min(count, cells.size());
  std::partial_sort(cells.begin(), cells.begin() + static_cast<std::ptrdiff_t>(count), cells.end(),
                    [](const CellStats* a, const CellStats* b) {
                      if (is_worse(*a, *b) != is_worse(*b, *a)) return is_worse(*a, *b);
                      return std::tie(a->layer, a->timestep) < std::tie(b->layer, b->timestep);
                    });
  cells.resize(count);
  return cells;
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
    const auto point = pareto_point(*pair, *report.map, metric_info("cos_sim"), report.bench);
    rows.push_back(summarise_cells({fmt::format("map, {} of {} cells", point.cells, pair->base->cells.size()), "map"},
                                   mixed_cells(*pair, *report.map), one_step));
  }
  rows.push_back(row(*pair->fallback));
  return rows;
}

std::vector<NamedTable> detail_tables(const Report& report, const ModelCells& model) {
  std::vector<NamedTable> tables;
  const auto rows = summarise(model, report.variants);
  tables.push_back(printed_summary(model.slug + "-variants", heading("All variants", model), rows));
  for (const auto& shown : shown_suites(report, model)) {
    if (const auto stages = analyse_stages(model, *shown.suite)) {
      tables.push_back(stages_table(model, shown, *stages));
    }
  }
  if (const auto adaptive = adaptive_rows(report, model); !adaptive.empty()) {
    tables.push_back(
        printed_summary(model.slug + "-adaptive", heading("Adaptive mix of 4 and 8 bit", model), adaptive));
  }
  tables.push_back(tails_table(model, rows));
  tables.push_back(quantiles_table(report, model));
  tables.push_back(worst_table(report, model));
  return tables;
}

NamedTable speed_table(const Report& report) {
  Builder b("speed", "Speed of one attention call");
  b.column("Kernel", "variant", Align::left);
  for (const auto& [title, full] : {std::pair{"batch", "batch"},
                                    {"heads", "q_heads"},
                                    {"KV heads", "kv_heads"},
                                    {"queries", "q_len"},
                                    {"keys", "kv_len"},
                                    {"dim", "head_dim"}}) {
    b.column(title, full);
  }
  b.column("causal", "is_causal", Align::left);
  b.column("ms", "ms");
  b.column("TOPS", "tops");
  for (const auto& e : report.bench) {
    b.row();
    b.text(label_of(report, e.variant));
    const auto& s = e.shape;
    for (const auto n : {s.batch, s.q_heads, s.kv_heads, s.q_len, s.kv_len, s.head_dim}) b.text(fmt::format("{}", n));
    b.text(s.is_causal ? "yes" : "no");
    b.significant(e.ms, 4);
    b.significant(e.tops, 4);
  }
  b.note("Operations: 4 x batch x heads x queries x keys x dim, halved when causal.");
  return b.take();
}

std::string cells_csv(const Report& report, const ModelCells& model) {
  std::string out = "label,variant,layer,layer_name,timestep,timestep_value,samples";
  for (const auto& m : kMetrics) out += fmt::format(",{}", m.name);
  out += ",nan,inf,p_underflow,p_total,saturated,seconds\n";
  for (const auto& row : report.variants) {
    const auto* v = model.find(row.variant);
    if (v == nullptr) continue;
    const auto names = fmt::format("{},{}", csv_quoted(row.label), csv_quoted(row.variant));
    for (const auto& c : v->cells) {
      fmt::format_to(std::back_inserter(out), "{},{},{},{},{},{}", names, c.layer, csv_quoted(c.layer_name), c.timestep,
                     c.timestep_value, c.samples.size());
      for (const auto& m : kMetrics) fmt::format_to(std::back_inserter(out), ",{}", c.metrics.*m.value);
      fmt::format_to(std::back_inserter(out), ",{},{},{},{},{},{}\n", c.counts.nan, c.counts.inf, c.counts.p_underflow,
                     c.counts.p_total, c.counts.saturated, c.seconds);
    }
  }
  return out;
}

}  // namespace sage2
