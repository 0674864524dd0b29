#include "reports/adaptive.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

namespace sage2 {
namespace {

/// A cell under both variants.
struct CellPair {
  const CellStats* base;
  const CellStats* fallback;
};

std::vector<CellPair> common_cells(const BasePair& pair) {
  std::vector<CellPair> cells;
  auto other = pair.fallback->cells.begin();
  for (const auto& c : pair.base->cells) {
    const auto before = [&](const CellStats& f) {
      return std::tie(f.layer, f.timestep) < std::tie(c.layer, c.timestep);
    };
    while (other != pair.fallback->cells.end() && before(*other)) ++other;
    if (other != pair.fallback->cells.end() && other->layer == c.layer && other->timestep == c.timestep) {
      cells.push_back({&c, &*other});
    }
  }
  return cells;
}

/// What one cell runs.
struct Choice {
  const VariantCells* variant;
  const CellStats* cell;
};

ParetoPoint point_of(const std::vector<Choice>& choices, const BasePair& pair, const MetricInfo& metric,
                     const std::vector<BenchEntry>& bench) {
  ParetoPoint point;
  const auto n = static_cast<double>(choices.size());
  double worst = -1;
  for (const auto& [variant, cell] : choices) {
    const double error = as_error(metric, cell->metrics);
    point.cells += variant == pair.base ? 0 : 1;
    point.error += cell->metrics.*metric.value / n;
    if (!(error <= worst)) {
      worst = error;
      point.worst = cell->metrics.*metric.value;
    }
    point.ms += bench_ms(bench, variant->variant, cell->shape).value_or(std::numeric_limits<double>::quiet_NaN());
  }
  point.share = static_cast<double>(point.cells) / n;
  return point;
}

const CellStats* find_cell(const VariantCells& v, int layer, int timestep) {
  const auto at =
      std::lower_bound(v.cells.begin(), v.cells.end(), std::pair(layer, timestep),
                       [](const CellStats& c, const auto& id) { return std::pair(c.layer, c.timestep) < id; });
  return at != v.cells.end() && at->layer == layer && at->timestep == timestep ? &*at : nullptr;
}

/// What each cell runs under the map: maps may name more variants than two. Cells that the map does not name run the
/// base; where the runs lack the variant it names, the fallback stands for it.
std::vector<Choice> choices_of(const ModelCells& model, const BasePair& pair, const AdaptiveMap& map) {
  std::vector<Choice> choices;
  for (const auto& [base, fallback] : common_cells(pair)) {
    const MapCell* named = map.find(base->layer, base->timestep);
    if (named == nullptr || named->variant == map.base) {
      choices.push_back({pair.base, base});
      continue;
    }
    const auto spelling = map.variants.find(named->variant);
    const auto* variant = find_variant_cells(model, spelling == map.variants.end() ? named->variant : spelling->second);
    const auto* cell = variant == nullptr ? nullptr : find_cell(*variant, base->layer, base->timestep);
    choices.push_back(cell == nullptr ? Choice{pair.fallback, fallback} : Choice{variant, cell});
  }
  return choices;
}

}  // namespace

const VariantCells* find_variant_cells(const ModelCells& model, const std::string& text) {
  for (const auto& v : model.variants) {
    if (v.variant == text || v.name == text) return &v;
  }
  return nullptr;
}

std::optional<BasePair> base_pair(const ModelCells& model, const std::optional<AdaptiveMap>& map) {
  if (map && !map->model.empty() && !model.model.empty() && map->model != model.model) return std::nullopt;
  const BasePair pair{find_variant_cells(model, map ? map->base : "sage2-4b"),
                      find_variant_cells(model, map ? map->fallback : "sage2-8b")};
  if (pair.base == nullptr || pair.fallback == nullptr || common_cells(pair).empty()) return std::nullopt;
  return pair;
}

std::vector<CellStats> mixed_cells(const ModelCells& model, const BasePair& pair, const AdaptiveMap& map) {
  std::vector<CellStats> cells;
  for (const auto& choice : choices_of(model, pair, map)) cells.push_back(*choice.cell);
  return cells;
}

std::vector<ParetoPoint> pareto_curve(const BasePair& pair, const MetricInfo& metric,
                                      const std::vector<BenchEntry>& bench, std::size_t points) {
  const auto cells = common_cells(pair);
  std::vector<std::size_t> order(cells.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto score = [&](std::size_t i) {
    const auto& m = cells[i].base->metrics;
    const double s = m.cos_sim * (1 - m.rel_l1);
    return std::isnan(s) ? -std::numeric_limits<double>::infinity() : s;
  };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return score(a) < score(b); });
  const std::size_t steps = std::min(points - 1, cells.size());
  std::vector<ParetoPoint> curve;
  std::vector<Choice> choices;
  for (const auto& c : cells) choices.push_back({pair.base, c.base});
  std::size_t chosen = 0;
  for (std::size_t i = 0; i <= steps; ++i) {
    for (const std::size_t until = i * cells.size() / steps; chosen < until; ++chosen) {
      choices[order[chosen]] = {pair.fallback, cells[order[chosen]].fallback};
    }
    curve.push_back(point_of(choices, pair, metric, bench));
  }
  return curve;
}

ParetoPoint pareto_point(const ModelCells& model, const BasePair& pair, const AdaptiveMap& map,
                         const MetricInfo& metric, const std::vector<BenchEntry>& bench) {
  return point_of(choices_of(model, pair, map), pair, metric, bench);
}

}  // namespace sage2
