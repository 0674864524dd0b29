#include "reports/compare.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "reports/student_t.hpp"

namespace sage2 {
namespace {

/// Changes below this are rounding, whatever the error they are measured against.
constexpr double kLeastChange = 1e-9;

/// A cell's samples that both runs hold, with the same inputs.
struct CellPair {
  const CellStats* a;
  const CellStats* b;
  std::vector<std::pair<const SampleCell*, const SampleCell*>> samples;
};

/// The reference belongs to the inputs alone: it tells whether two records speak of the same tensors and rows, where
/// keys also differ when the meaning of a variant changed.
bool same_inputs(const ErrorSums& a, const ErrorSums& b) {
  const auto close = [](double x, double y) { return std::abs(x - y) <= 1e-6 * std::max(std::abs(x), std::abs(y)); };
  return a.count == b.count && close(a.ref_ref, b.ref_ref) && close(a.abs_ref, b.abs_ref);
}

std::vector<CellPair> pair_cells(const VariantCells& a, const VariantCells& b, Comparison& c) {
  std::map<std::pair<int, int>, const CellStats*> others;
  std::size_t samples_b = 0;
  for (const auto& cell : b.cells) {
    others[{cell.layer, cell.timestep}] = &cell;
    samples_b += cell.samples.size();
  }
  std::vector<CellPair> pairs;
  std::size_t found = 0;
  for (const auto& cell : a.cells) {
    const auto other = others.find({cell.layer, cell.timestep});
    CellPair pair{&cell, other == others.end() ? nullptr : other->second, {}};
    for (const auto& sample : cell.samples) {
      const SampleCell* match = nullptr;
      if (pair.b != nullptr) {
        for (const auto& s : pair.b->samples) {
          if (s.capture == sample.capture && s.sample == sample.sample) match = &s;
        }
      }
      if (match == nullptr) {
        ++c.only_a;
        continue;
      }
      ++found;
      if (same_inputs(sample.sums, match->sums)) {
        pair.samples.emplace_back(&sample, match);
      } else {
        ++c.different_inputs;
      }
    }
    if (!pair.samples.empty()) pairs.push_back(std::move(pair));
  }
  c.only_b += samples_b - found;
  return pairs;
}

std::vector<double> head_differences(const SampleCell& a, const SampleCell& b, const MetricInfo& metric) {
  std::map<std::pair<int, int>, double> errors;
  for (const auto& h : a.heads) errors[{h.batch, h.head}] = as_error(metric, h.metrics);
  std::vector<double> differences;
  for (const auto& h : b.heads) {
    const auto found = errors.find({h.batch, h.head});
    if (found != errors.end()) differences.push_back(as_error(metric, h.metrics) - found->second);
  }
  return differences;
}

Verdict judge(double error_a, double error_b, const Interval& change, double tolerance) {
  const bool nan_a = !std::isfinite(error_a);
  const bool nan_b = !std::isfinite(error_b);
  if (nan_a || nan_b) return nan_a == nan_b ? Verdict::same : nan_b ? Verdict::worse : Verdict::better;
  const double zone = std::max(kLeastChange, tolerance * std::abs(error_a));
  if (change.low > zone) return Verdict::worse;
  if (change.high < -zone) return Verdict::better;
  if (change.low >= -zone && change.high <= zone) return Verdict::same;
  return Verdict::uncertain;
}

CellChange change_of(const CellPair& pair, const Comparison& c) {
  CellChange cell;
  cell.layer = pair.a->layer;
  cell.timestep = pair.a->timestep;
  const auto& metric = *c.metric;
  std::vector<double> differences;
  const auto n = static_cast<double>(pair.samples.size());
  for (const auto& [a, b] : pair.samples) {
    const double error_a = as_error(metric, a->metrics);
    const double error_b = as_error(metric, b->metrics);
    cell.error_a += error_a / n;
    cell.error_b += error_b / n;
    differences.push_back(error_b - error_a);
  }
  Interval change{cell.error_b - cell.error_a, 0, 0};
  cell.spread = SpreadOver::samples;
  if (differences.size() < 2) {
    auto heads = head_differences(*pair.samples[0].first, *pair.samples[0].second, metric);
    cell.spread = heads.size() < 2 ? SpreadOver::nothing : SpreadOver::heads;
    if (cell.spread == SpreadOver::heads) differences = std::move(heads);
  }
  cell.values = differences.size();
  change = mean_interval(differences, c.confidence);
  // Without any spread only an unchanged number is known for sure.
  if (cell.spread == SpreadOver::nothing && std::abs(change.mean) <= kLeastChange) change.low = change.high = 0;
  cell.change = change.mean;
  cell.low = change.low;
  cell.high = change.high;
  cell.verdict = judge(cell.error_a, cell.error_b, change, c.tolerance);
  return cell;
}

std::size_t& tally(VariantChange& v, Verdict verdict) {
  switch (verdict) {
    case Verdict::better:
      return v.better;
    case Verdict::same:
      return v.same;
    case Verdict::worse:
      return v.worse;
    case Verdict::uncertain:
      break;
  }
  return v.uncertain;
}

VariantChange variant_of(const std::vector<CellChange>& cells, const Comparison& c) {
  VariantChange v;
  std::vector<double> changes;
  const auto n = static_cast<double>(cells.size());
  for (const auto& cell : cells) {
    v.error_a += cell.error_a / n;
    v.error_b += cell.error_b / n;
    changes.push_back(cell.change);
    ++tally(v, cell.verdict);
  }
  const auto change =
      cells.size() == 1 ? Interval{cells[0].change, cells[0].low, cells[0].high} : mean_interval(changes, c.confidence);
  v.change = change.mean;
  v.low = change.low;
  v.high = change.high;
  v.verdict = judge(v.error_a, v.error_b, change, c.tolerance);
  return v;
}

/// Change as a fraction of A's error; infinite where A has none.
double relative(double change, double error_a) {
  if (change == 0) return 0;
  return change / error_a;
}

std::string percent_change(double change, double error_a) {
  const double r = relative(change, error_a);
  return std::isfinite(r) ? fmt::format("{:+.1f}%", 100 * r) : fmt::format("{}", r);
}

nlohmann::json finite(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json();
}

const char* to_string(SpreadOver spread) {
  switch (spread) {
    case SpreadOver::samples:
      return "samples";
    case SpreadOver::heads:
      return "heads";
    case SpreadOver::nothing:
      break;
  }
  return "nothing";
}

/// Labels longer than this make no line of 80 columns.
std::string cut(const std::string& label, std::size_t width) {
  return label.size() <= width ? label : label.substr(0, width - 2) + "..";
}

}  // namespace

const char* to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::better:
      return "better";
    case Verdict::same:
      return "same";
    case Verdict::worse:
      return "worse";
    case Verdict::uncertain:
      break;
  }
  return "uncertain";
}

bool Comparison::any_worse() const {
  return std::any_of(variants.begin(), variants.end(),
                     [](const VariantChange& v) { return v.worse > 0 || v.verdict == Verdict::worse; });
}

Comparison compare_reports(const Report& a, const Report& b, const CompareSettings& settings) {
  Comparison c;
  c.metric = settings.metric;
  c.tolerance = settings.tolerance;
  c.confidence = settings.confidence;
  for (const auto& model : a.models) {
    const auto other =
        std::find_if(b.models.begin(), b.models.end(), [&](const ModelCells& m) { return m.title == model.title; });
    if (other == b.models.end()) continue;
    const bool one_step = has_one_step(model);
    for (const auto& row : a.variants) {
      const auto* cells_a = model.find(row.variant);
      const auto* cells_b = other->find(row.variant);
      if (cells_a == nullptr || cells_b == nullptr) continue;
      std::vector<CellChange> cells;
      for (const auto& pair : pair_cells(*cells_a, *cells_b, c)) {
        auto cell = change_of(pair, c);
        cell.model = model.title;
        cell.label = row.label;
        cell.variant = row.variant;
        cell.cell = long_name(*pair.a, one_step);
        cell.cell_short = short_name(*pair.a, one_step);
        ++(cell.spread == SpreadOver::samples ? c.by_samples
           : cell.spread == SpreadOver::heads ? c.by_heads
                                              : c.by_none);
        cells.push_back(std::move(cell));
      }
      if (cells.empty()) continue;
      auto v = variant_of(cells, c);
      v.model = model.title;
      v.label = row.label;
      v.variant = row.variant;
      c.variants.push_back(std::move(v));
      c.cells.insert(c.cells.end(), cells.begin(), cells.end());
    }
  }
  if (c.variants.empty()) {
    throw DataError(c.different_inputs > 0
                        ? fmt::format("the runs have no inputs in common: {} samples have the same names but other "
                                      "reference outputs (other tensors, heads or query rows)",
                                      c.different_inputs)
                        : std::string("the runs have no sample and variant in common"));
  }
  return c;
}

Table comparison_table(const Comparison& c) {
  Table t;
  const auto group = fmt::format("mean {}", c.metric->higher_is_better ? "1 - CosSim" : c.metric->label);
  t.columns = {{"Variant"},
               {"verdict"},
               {"A", Align::right, group},
               {"B", Align::right, group},
               {"change", Align::right, group},
               {"b/s/u/w", Align::right, "cells"}};
  std::string model;
  const bool several = std::any_of(c.variants.begin(), c.variants.end(),
                                   [&](const VariantChange& v) { return v.model != c.variants[0].model; });
  for (const auto& v : c.variants) {
    if (several && v.model != model) t.rows.push_back({cut(v.model, 26), "", "", "", "", ""});
    model = v.model;
    t.rows.push_back({cut(v.label, 26), to_string(v.verdict), fmt::format("{:.3g}", v.error_a),
                      fmt::format("{:.3g}", v.error_b), percent_change(v.change, v.error_a),
                      fmt::format("{}/{}/{}/{}", v.better, v.same, v.uncertain, v.worse)});
  }
  t.notes.push_back("b/s/u/w: cells where B is better, same, uncertain, worse");
  return t;
}

Table movers_table(const Comparison& c, std::size_t count) {
  std::vector<const CellChange*> cells;
  for (const auto& cell : c.cells) {
    if (cell.verdict != Verdict::same) cells.push_back(&cell);
  }
  const auto order = [](const CellChange* cell) {
    const double r = relative(cell->change, cell->error_a);
    return std::pair(cell->verdict != Verdict::worse, std::isnan(r) ? -std::numeric_limits<double>::infinity() : -r);
  };
  std::stable_sort(cells.begin(), cells.end(), [&](const auto* x, const auto* y) { return order(x) < order(y); });
  if (cells.size() > count) cells.resize(count);
  Table t;
  t.title = "Worst movers";
  t.columns = {{"Variant"}, {"cell"}, {"A", Align::right}, {"B", Align::right}, {"change", Align::right}, {"verdict"}};
  for (const auto* cell : cells) {
    t.rows.push_back({cut(cell->label, 30), cell->cell_short, fmt::format("{:.3g}", cell->error_a),
                      fmt::format("{:.3g}", cell->error_b), percent_change(cell->change, cell->error_a),
                      to_string(cell->verdict)});
  }
  return t;
}

std::vector<std::string> comparison_summary(const Comparison& c) {
  VariantChange all;
  for (const auto& v : c.variants) {
    all.better += v.better;
    all.same += v.same;
    all.uncertain += v.uncertain;
    all.worse += v.worse;
  }
  std::vector<std::string> lines{
      fmt::format("Of {} cells B is worse in {}, better in {}, the same in {}, uncertain in {}.", c.cells.size(),
                  all.worse, all.better, all.same, all.uncertain)};
  lines.push_back(fmt::format("{:.4g}% intervals of the mean paired difference, tolerance {:.4g}% of A's error.",
                              100 * c.confidence, 100 * c.tolerance));
  std::string spread = "Spread over";
  if (c.by_samples > 0) spread += fmt::format(" samples in {} cells,", c.by_samples);
  if (c.by_heads > 0) spread += fmt::format(" heads in {} cells with one sample,", c.by_heads);
  if (c.by_none > 0) spread += fmt::format(" nothing in {} cells (one sample, one head),", c.by_none);
  spread.back() = '.';
  lines.push_back(std::move(spread));
  if (c.only_a + c.only_b > 0) {
    lines.push_back(fmt::format("Not compared: {} samples only in A, {} only in B.", c.only_a, c.only_b));
  }
  if (c.different_inputs > 0) {
    lines.push_back(fmt::format("Not compared: {} samples whose reference outputs differ (other inputs or query rows).",
                                c.different_inputs));
  }
  return lines;
}

nlohmann::json comparison_json(const Comparison& c) {
  using nlohmann::json;
  json variants = json::array();
  for (const auto& v : c.variants) {
    variants.push_back({{"model", v.model},
                        {"label", v.label},
                        {"variant", v.variant},
                        {"verdict", to_string(v.verdict)},
                        {"error_a", finite(v.error_a)},
                        {"error_b", finite(v.error_b)},
                        {"change", finite(v.change)},
                        {"low", finite(v.low)},
                        {"high", finite(v.high)},
                        {"better", v.better},
                        {"same", v.same},
                        {"uncertain", v.uncertain},
                        {"worse", v.worse}});
  }
  json cells = json::array();
  for (const auto& v : c.cells) {
    cells.push_back({{"model", v.model},
                     {"variant", v.variant},
                     {"cell", v.cell},
                     {"layer", v.layer},
                     {"timestep", v.timestep},
                     {"verdict", to_string(v.verdict)},
                     {"error_a", finite(v.error_a)},
                     {"error_b", finite(v.error_b)},
                     {"change", finite(v.change)},
                     {"low", finite(v.low)},
                     {"high", finite(v.high)},
                     {"spread", to_string(v.spread)},
                     {"values", v.values}});
  }
  return {{"schema", "sage2-compare/1"}, {"metric", c.metric->name}, {"tolerance", c.tolerance},
          {"confidence", c.confidence},  {"variants", variants},     {"cells", cells},
          {"only_a", c.only_a},          {"only_b", c.only_b},       {"different_inputs", c.different_inputs},
          {"worse", c.any_worse()}};
}

}  // namespace sage2
