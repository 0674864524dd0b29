#include "reports/adaptive.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

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

ParetoPoint point_of(const std::vector<CellPair>& cells, const std::vector<bool>& costly, const BasePair& pair,
                     const MetricInfo& metric, const std::vector<BenchEntry>& bench) {
  ParetoPoint point;
  const auto n = static_cast<double>(cells.size());
  double worst = -1;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const CellStats& c = costly[i] ? *cells[i].fallback : *cells[i].base;
    const double error = as_error(metric, c.metrics);
    point.cells += costly[i] ? 1 : 0;
    point.error += c.metrics.*metric.value / n;
    if (!(error <= worst)) {
      worst = error;
      point.worst = c.metrics.*metric.value;
    }
    point.ms += bench_ms(bench, (costly[i] ? pair.fallback : pair.base)->variant, c.shape)
                    .value_or(std::numeric_limits<double>::quiet_NaN());
  }
  point.share = static_cast<double>(point.cells) / n;
  return point;
}

/// Whether the map sends a cell to the fallback, which it may spell canonically or by name.
bool is_costly(const AdaptiveMap& map, const CellStats& cell) {
  const MapCell* found = map.find(cell.layer, cell.timestep);
  return found != nullptr && found->variant != map.base;
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

std::vector<CellStats> mixed_cells(const BasePair& pair, const AdaptiveMap& map) {
  std::vector<CellStats> cells;
  for (const auto& [base, fallback] : common_cells(pair)) cells.push_back(is_costly(map, *base) ? *fallback : *base);
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
  std::vector<bool> costly(cells.size(), false);
  std::size_t chosen = 0;
  for (std::size_t i = 0; i <= steps; ++i) {
    for (const std::size_t until = i * cells.size() / steps; chosen < until; ++chosen) costly[order[chosen]] = true;
    curve.push_back(point_of(cells, costly, pair, metric, bench));
  }
  return curve;
}

ParetoPoint pareto_point(const BasePair& pair, const AdaptiveMap& map, const MetricInfo& metric,
                         const std::vector<BenchEntry>& bench) {
  const auto cells = common_cells(pair);
  std::vector<bool> costly;
  for (const auto& c : cells) costly.push_back(is_costly(map, *c.base));
  return point_of(cells, costly, pair, metric, bench);
}

}  // namespace sage2
