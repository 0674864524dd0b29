#include "reports/plot_data.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "fmt/format.h"
#include "reports/stages.hpp"

namespace sage2 {
namespace {

using nlohmann::json;

/// More lines or panels than this are not told apart in print.
constexpr std::size_t kMostSeries = 12;

/// What one family of figures shows: some rows of one suite.
struct Selection {
  std::string name;  ///< part of the figure's name
  std::string title;
  std::vector<SuiteRow> rows;
  std::size_t left_out = 0;
};

json finite(double value) {
  return std::isfinite(value) ? json(value) : json();
}

json metric_json(const MetricInfo& metric) {
  // CosSim is drawn as its distance from 1, on a logarithmic scale as every error.
  return {{"name", metric.name},
          {"label", metric.higher_is_better ? fmt::format("1 - {}", metric.label) : metric.label}};
}

struct Axes {
  std::vector<int> layers, steps;
};

Axes axes_of(const ModelCells& model) {
  std::set<int> layers;
  std::set<int> steps;
  for (const auto& v : model.variants) {
    for (const auto& c : v.cells) {
      layers.insert(c.layer);
      steps.insert(c.timestep);
    }
  }
  return {{layers.begin(), layers.end()}, {steps.begin(), steps.end()}};
}

/// [layer][timestep], null where a cell is missing or not finite.
json layer_step_grid(const VariantCells& v, const Axes& axes, const MetricInfo& metric) {
  std::map<std::pair<int, int>, double> values;
  for (const auto& c : v.cells) values[{c.layer, c.timestep}] = as_error(metric, c.metrics);
  json rows = json::array();
  for (const int layer : axes.layers) {
    json row = json::array();
    for (const int step : axes.steps) {
      const auto found = values.find({layer, step});
      row.push_back(found == values.end() ? json() : finite(found->second));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

json figure(const ModelCells& model, const std::string& kind, const std::string& name, const std::string& title,
            const std::string& caption) {
  return {{"name", fmt::format("{}-{}", model.slug, name)},
          {"kind", kind},
          {"model", model.slug},
          {"title", title},
          {"caption", caption}};
}

std::string caption_end(const ModelCells& model, const Selection& s) {
  auto text = fmt::format(" {}: {}.", model.title, extent_of(model));
  if (s.left_out > 0) text += fmt::format(" The first {} rows are shown, {} are left out.", s.rows.size(), s.left_out);
  return text;
}

json heatmaps(const ModelCells& model, const Selection& s, const MetricInfo& metric) {
  const auto axes = axes_of(model);
  const bool one_step = axes.steps.size() == 1;
  auto f =
      figure(model, "heatmaps", fmt::format("heatmap-{}-{}", s.name, slug_of(metric.name)), s.title,
             fmt::format("{} of every {}. The colour scale is logarithmic and shared by all panels; a cross marks a "
                         "cell without a finite value.{}",
                         metric_json(metric)["label"].get<std::string>(), one_step ? "layer" : "layer and timestep",
                         caption_end(model, s)));
  f["metric"] = metric_json(metric);
  f["panels"] = json::array();
  json lines = json::array();
  json labels = json::array();
  for (const auto& row : s.rows) {
    const auto grid = layer_step_grid(*model.find(row.variant), axes, metric);
    if (one_step) {  // a map of one column says little: variants become the rows instead
      json line = json::array();
      for (const auto& cell : grid) line.push_back(cell[0]);
      lines.push_back(std::move(line));
      labels.push_back(row.label);
    } else {
      f["panels"].push_back({{"label", row.label}, {"values", grid}});
    }
  }
  if (one_step) {
    f["panels"].push_back({{"label", ""}, {"values", lines}});
    f["x"] = {{"label", "layer"}, {"values", axes.layers}};
    f["y"] = {{"label", ""}, {"values", labels}};
  } else {
    f["x"] = {{"label", "timestep (index)"}, {"values", axes.steps}};
    f["y"] = {{"label", "layer"}, {"values", axes.layers}};
  }
  return f;
}

/// Mean and spread at one layer or timestep.
struct Spread {
  double mean = 0;
  double head_low = 0, head_high = 0;      ///< 10% and 90% quantile over heads of all cells there
  double sample_low = 0, sample_high = 0;  ///< least and largest of the samples' means
};

Spread spread_of(const std::vector<const CellStats*>& cells, const MetricInfo& metric) {
  Spread s;
  std::vector<double> heads;
  std::map<std::pair<std::string, int>, std::pair<double, int>> samples;
  for (const auto* c : cells) {
    s.mean += as_error(metric, c->metrics) / static_cast<double>(cells.size());
    for (const auto& h : c->heads) heads.push_back(as_error(metric, h.metrics));
    for (const auto& sample : c->samples) {
      auto& [sum, count] = samples[{sample.capture, sample.sample}];
      sum += as_error(metric, sample.metrics);
      ++count;
    }
  }
  std::sort(heads.begin(), heads.end());
  s.head_low = quantile(heads, 0.1);
  s.head_high = quantile(heads, 0.9);
  s.sample_low = s.sample_high = std::nan("");
  for (const auto& [id, sum] : samples) {
    const double mean = sum.first / sum.second;
    s.sample_low = std::fmin(s.sample_low, mean);
    s.sample_high = std::fmax(s.sample_high, mean);
  }
  return s;
}

json series_json(const VariantCells& v, const std::string& label, const std::vector<int>& axis, bool by_layer,
                 const MetricInfo& metric, bool samples) {
  json j{{"label", label}};
  for (const char* key : {"mean", "head_low", "head_high", "sample_low", "sample_high"}) j[key] = json::array();
  for (const int at : axis) {
    std::vector<const CellStats*> cells;
    for (const auto& c : v.cells) {
      if ((by_layer ? c.layer : c.timestep) == at) cells.push_back(&c);
    }
    const auto s = spread_of(cells, metric);
    j["mean"].push_back(cells.empty() ? json() : finite(s.mean));
    j["head_low"].push_back(finite(s.head_low));
    j["head_high"].push_back(finite(s.head_high));
    j["sample_low"].push_back(samples ? finite(s.sample_low) : json());
    j["sample_high"].push_back(samples ? finite(s.sample_high) : json());
  }
  return j;
}

bool has_samples(const ModelCells& model) {
  for (const auto& v : model.variants) {
    for (const auto& c : v.cells) {
      if (c.samples.size() > 1) return true;
    }
  }
  return false;
}

json profile(const ModelCells& model, const Selection& s, const MetricInfo& metric) {
  const auto axes = axes_of(model);
  const bool samples = has_samples(model);
  auto f =
      figure(model, "profile", fmt::format("profile-{}-{}", s.name, slug_of(metric.name)), s.title,
             fmt::format("{} against layer{}: mean over cells. Thin bars: 10% to 90% quantile over heads{}.{}",
                         metric_json(metric)["label"].get<std::string>(), axes.steps.size() > 1 ? " and timestep" : "",
                         samples ? "; thick bars: least to largest mean of a sample" : " (one sample a cell)",
                         caption_end(model, s)));
  f["metric"] = metric_json(metric);
  f["axes"] = json::array();
  for (const bool by_layer : {true, false}) {
    const auto& axis = by_layer ? axes.layers : axes.steps;
    if (!by_layer && axis.size() < 2) continue;
    json series = json::array();
    for (const auto& row : s.rows) {
      series.push_back(series_json(*model.find(row.variant), row.label, axis, by_layer, metric, samples));
    }
    f["axes"].push_back({{"label", by_layer ? "layer" : "timestep (index)"}, {"values", axis}, {"series", series}});
  }
  return f;
}

json distribution(const ModelCells& model, const Selection& s, const MetricInfo& metric) {
  const bool one_step = has_one_step(model);
  auto f = figure(model, "distribution", fmt::format("distribution-{}-{}", s.name, slug_of(metric.name)), s.title,
                  fmt::format("Left: {} of all cells (dots; box: quartiles, bar: median), the worst cell named. Right: "
                              "quantiles of the element error |O - O'| in that worst cell.{}",
                              metric_json(metric)["label"].get<std::string>(), caption_end(model, s)));
  f["metric"] = metric_json(metric);
  f["rows"] = json::array();
  for (const auto& row : s.rows) {
    const auto* v = model.find(row.variant);
    std::vector<double> values;
    const CellStats* worst = nullptr;
    for (const auto& c : v->cells) {
      const double error = as_error(metric, c.metrics);
      if (std::isfinite(error)) values.push_back(error);
      if (worst == nullptr || !(error <= as_error(metric, worst->metrics))) worst = &c;
    }
    std::sort(values.begin(), values.end());
    json quartiles = json::array();
    for (const double q : {0.25, 0.5, 0.75}) quartiles.push_back(finite(quantile(values, q)));
    json dots = json::array();  // at most 200, spread evenly over the ranks, the ends included
    const std::size_t n = std::min<std::size_t>(values.size(), 200);
    for (std::size_t i = 0; i < n; ++i) dots.push_back(values[n == 1 ? 0 : i * (values.size() - 1) / (n - 1)]);
    const auto& m = worst->metrics;
    f["rows"].push_back({{"label", row.label},
                         {"values", std::move(dots)},
                         {"quartiles", std::move(quartiles)},
                         {"worst", {{"name", short_name(*worst, one_step)}, {"value", finite(as_error(metric, m))}}},
                         {"tail", {finite(m.p50), finite(m.p90), finite(m.p99), finite(m.p999), finite(m.max_abs)}}});
  }
  return f;
}

json difference(const Report& report, const ModelCells& model, const VariantCells& a, const VariantCells& b,
                const MetricInfo& metric) {
  const auto axes = axes_of(model);
  const auto name_a = label_of(report, a.variant);
  const auto name_b = label_of(report, b.variant);
  auto f = figure(model, "difference", fmt::format("difference-{}", slug_of(metric.name)),
                  fmt::format("{} minus {}", name_a, name_b),
                  fmt::format("{} of {} minus that of {}: positive where {} is better. {}: {}.",
                              metric_json(metric)["label"].get<std::string>(), name_a, name_b, name_b, model.title,
                              extent_of(model)));
  f["metric"] = metric_json(metric);
  auto values = layer_step_grid(a, axes, metric);
  const auto other = layer_step_grid(b, axes, metric);
  for (std::size_t y = 0; y < values.size(); ++y) {
    for (std::size_t x = 0; x < values[y].size(); ++x) {
      auto& value = values[y][x];
      value = value.is_null() || other[y][x].is_null() ? json() : json(value.get<double>() - other[y][x].get<double>());
    }
  }
  f["values"] = std::move(values);
  f["x"] = {{"label", "timestep (index)"}, {"values", axes.steps}};
  f["y"] = {{"label", "layer"}, {"values", axes.layers}};
  return f;
}

json point_json(const ParetoPoint& p, const MetricInfo& metric) {
  const auto error = [&](double value) { return finite(metric.higher_is_better ? 1 - value : value); };
  return {{"cells", p.cells},
          {"share", p.share},
          {"error", error(p.error)},
          {"worst", error(p.worst)},
          {"ms", finite(p.ms)}};
}

json pareto(const Report& report, const ModelCells& model, const BasePair& pair, const MetricInfo& metric) {
  const auto base = label_of(report, pair.base->variant);
  const auto fallback = label_of(report, pair.fallback->variant);
  auto f =
      figure(model, "pareto", fmt::format("pareto-{}", slug_of(metric.name)),
             fmt::format("{} with {} where it is needed", base, fallback),
             fmt::format(
                 "{} when the worst cells of {} (by CosSim (1 - relative L1)) run {} instead, against their share{}.{} "
                 "{}: {}.",
                 metric_json(metric)["label"].get<std::string>(), base, fallback,
                 report.bench.empty() ? "" : " and against the milliseconds of one call of every cell",
                 report.map ? " The cross is the given map." : "", model.title, extent_of(model)));
  f["metric"] = metric_json(metric);
  f["fallback"] = fallback;
  f["curve"] = json::array();
  for (const auto& p : pareto_curve(pair, metric, report.bench)) f["curve"].push_back(point_json(p, metric));
  f["map"] = report.map ? point_json(pareto_point(model, pair, *report.map, metric, report.bench), metric) : json();
  return f;
}

json stages_figure(const ModelCells& model, const std::string& name, const SuiteInfo& suite, const StageAnalysis& a) {
  auto f =
      figure(model, "stages", name, suite.title,
             fmt::format("Squared error with only one stage quantised, as a share of the squared error with all of "
                         "them (dashed line). The gap to the line is interaction of stages. {}: {}.",
                         model.title, extent_of(model)));
  f["stages"] = a.stages;
  f["bars"] = json::array();
  const auto add_bar = [&](const StageShares& s) {
    f["bars"].push_back({{"name", s.name}, {"shares", s.shares}, {"interaction", s.interaction}});
  };
  add_bar(a.whole);
  for (const auto& layer : a.layers) add_bar(layer);
  return f;
}

/// One panel for each head dim and mask, one line for each kernel: TOPS against keys. Of several batches or head counts
/// at one length the largest stands.
json speed_figure(const Report& report) {
  std::map<std::pair<std::int64_t, bool>, std::map<std::string, std::map<std::int64_t, const BenchEntry*>>> panels;
  for (const auto& e : report.bench) {
    auto& entry = panels[{e.shape.head_dim, e.shape.is_causal}][label_of(report, e.variant)][e.shape.kv_len];
    if (entry == nullptr || attention_ops(entry->shape) < attention_ops(e.shape)) entry = &e;
  }
  json list = json::array();
  for (const auto& [key, kernels] : panels) {
    json series = json::array();
    for (const auto& [label, points] : kernels) {
      json x = json::array();
      json y = json::array();
      for (const auto& [length, entry] : points) {
        x.push_back(length);
        y.push_back(entry->tops);
      }
      series.push_back({{"label", label}, {"x", x}, {"y", y}});
    }
    list.push_back({{"title", fmt::format("head dim {}, {}", key.first, key.second ? "causal" : "not causal")},
                    {"series", series}});
  }
  return {{"name", "speed"},
          {"kind", "speed"},
          {"model", ""},
          {"title", "Speed against sequence length"},
          {"caption",
           "10^12 operations a second against the number of keys; 4 x batch x heads x queries x keys x dim "
           "operations, halved when causal."},
          {"panels", list}};
}

/// The suites whose rows compare methods; all variants where there is no suite.
std::vector<Selection> selections(const Report& report, const ModelCells& model) {
  std::vector<Selection> chosen;
  const auto take = [&](std::string name, std::string title, const std::vector<SuiteRow>& rows) {
    Selection s{std::move(name), std::move(title), {}};
    for (const auto& row : rows) {
      if (model.find(row.variant) == nullptr) continue;
      if (s.rows.size() < kMostSeries) {
        s.rows.push_back(row);
      } else {
        ++s.left_out;
      }
    }
    if (!s.rows.empty()) chosen.push_back(std::move(s));
  };
  for (const auto& shown : shown_suites(report, model)) {
    if (shown.suite->name != "stages") take(shown.name, shown.suite->title, shown.suite->rows);
  }
  if (chosen.empty()) take("variants", "All variants", report.variants);
  return chosen;
}

/// The pair asked for, or base and fallback of the adaptive mix.
std::optional<BasePair> difference_pair(const Report& report, const ModelCells& model) {
  if (!report.difference) return base_pair(model, report.map);
  const BasePair pair{model.find(report.difference->first), model.find(report.difference->second)};
  if (pair.base == nullptr || pair.fallback == nullptr) return std::nullopt;
  return pair;
}

}  // namespace

json plot_data(const Report& report) {
  json figures = json::array();
  for (const auto& model : report.models) {
    for (const auto& s : selections(report, model)) {
      for (const auto* metric : report.metrics) {
        figures.push_back(heatmaps(model, s, *metric));
        figures.push_back(profile(model, s, *metric));
        figures.push_back(distribution(model, s, *metric));
      }
    }
    for (const auto* metric : report.metrics) {
      if (const auto pair = difference_pair(report, model)) {
        figures.push_back(difference(report, model, *pair->base, *pair->fallback, *metric));
      }
      if (const auto pair = base_pair(model, report.map)) figures.push_back(pareto(report, model, *pair, *metric));
    }
    for (const auto& shown : shown_suites(report, model)) {
      if (const auto a = analyse_stages(model, *shown.suite)) {
        figures.push_back(stages_figure(model, shown.name, *shown.suite, *a));
      }
    }
  }
  if (!report.bench.empty()) figures.push_back(speed_figure(report));
  return {{"schema", kPlotSchema}, {"figures", std::move(figures)}};
}

std::vector<PlotLink> plot_links(const json& plots, const std::string& ending) {
  std::vector<PlotLink> links;
  for (const auto& f : plots["figures"]) {
    links.push_back({f["model"].get<std::string>(), fmt::format("plots/{}.{}", f["name"].get<std::string>(), ending),
                     f["title"].get<std::string>(), f["caption"].get<std::string>()});
  }
  return links;
}

}  // namespace sage2
