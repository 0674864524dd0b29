#include "reports/detail_tables.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <tuple>
#include <utility>

#include "fmt/format.h"
#include "reports/report_tables.hpp"
#include "reports/stages.hpp"

namespace sage2 {
namespace {

/// Fills the printed and the full table side by side.
class Builder {
 public:
  Builder(const std::string& name, std::string topic, const ModelCells* model) {
    out_.name = model == nullptr ? name : fmt::format("{}-{}", model->slug, name);
    out_.printed.title = model == nullptr ? topic : table_heading(topic, *model);
    out_.topic = std::move(topic);
  }

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

NamedTable tails_table(const ModelCells& model, const std::vector<VariantSummary>& rows) {
  Builder b("tails", "Tails of the element error and events", &model);
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
  Builder b("quantiles", "Quantiles over cells, from good to bad", &model);
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
  Builder b("worst-cells", fmt::format("The {} worst cells of each method", kWorst), &model);
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
  Builder b(shown.name + "-shares", shown.suite->title + ": shares", &model);
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

std::vector<NamedTable> detail_tables(const Report& report, const ModelCells& model) {
  std::vector<NamedTable> tables;
  const auto rows = summarise(model, report.variants);
  tables.push_back(summary_named("variants", "All variants", model, rows));
  for (const auto& shown : shown_suites(report, model)) {
    if (const auto stages = analyse_stages(model, *shown.suite)) {
      tables.push_back(stages_table(model, shown, *stages));
    }
  }
  if (const auto adaptive = adaptive_rows(report, model); !adaptive.empty()) {
    tables.push_back(summary_named("adaptive", "Adaptive mix of 4 and 8 bit", model, adaptive));
  }
  tables.push_back(tails_table(model, rows));
  tables.push_back(quantiles_table(report, model));
  tables.push_back(worst_table(report, model));
  return tables;
}

NamedTable speed_table(const Report& report) {
  Builder b("speed", "Speed of one attention call", nullptr);
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
