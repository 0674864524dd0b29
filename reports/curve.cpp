#include "reports/curve.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "fmt/format.h"

namespace sage2 {
namespace {

/// Summed over a group's cells: what moving it into the fallback saves.
std::vector<double> savings(const Groups& groups, const CellGrid& errors) {
  std::vector<double> saved(groups.count, 0.0);
  for (std::size_t c = 0; c < groups.of_cell.size(); ++c) saved[groups.of_cell[c]] += errors.at(c, 0) - errors.at(c, 1);
  return saved;
}

std::string name_of(const Designer& d, std::size_t group) {
  const auto c = std::find(d.groups.of_cell.begin(), d.groups.of_cell.end(), group) - d.groups.of_cell.begin();
  const Cell& cell = d.table.cells[static_cast<std::size_t>(c)];
  switch (d.request.pooling) {
    case Pooling::layer:
      return fmt::format("layer {}", cell.layer);
    case Pooling::timestep:
      return fmt::format("timestep {}", cell.timestep);
    default:
      return to_string(cell);
  }
}

void check(const Designer& d, const std::vector<std::size_t>& order, const std::vector<double>& saved, Curve& curve) {
  // Sums of errors carry rounding of this size: below it a rise is none.
  const double noise =
      1e-12 * std::accumulate(saved.begin(), saved.end(), 0.0, [](double sum, double s) { return sum + std::abs(s); });
  const auto worse = std::count_if(saved.begin(), saved.end(), [&](double s) { return s < -noise; });
  if (worse > 0) {
    const auto group = static_cast<std::size_t>(std::min_element(saved.begin(), saved.end()) - saved.begin());
    curve.falls = false;
    curve.findings.push_back(
        fmt::format("rises: in {} of {} the fallback is worse than the base, most in {} (by {:.3g})", worse,
                    saved.size(), name_of(d, group), -saved[group]));
  }
  const double whole = std::accumulate(saved.begin(), saved.end(), 0.0);
  double largest = saved.empty() ? 0.0 : saved[order[0]];
  for (std::size_t k = 1; k < order.size(); ++k) {
    const double step = saved[order[k]];
    if (step > 0.05 * whole && step > 2 * largest) {
      curve.smooth = false;
      curve.findings.push_back(fmt::format("jumps: {} comes {} by score but saves {:.1f} % of the whole",
                                           name_of(d, order[k]), k + 1, 100 * step / whole));
    }
    largest = std::max(largest, step);
  }
}

}  // namespace

Curve error_curve(const Designer& d, const CellTable& scored) {
  const auto errors =
      mean_over_samples(scored, evaluate(scored, [&](const Observation& o) { return error_of(o, d.request.metric); }));
  const auto saved = savings(d.groups, errors);
  const auto by_score = ascending(group_means(d.groups, mean_over_samples(d.table, d.ranking).column(0)));
  auto negative = savings(d.groups, mean_over_samples(d.table, d.error));
  for (auto& s : negative) s = -s;
  const auto by_saving = ascending(negative);

  const auto cells = static_cast<double>(d.table.cells.size());
  const double whole = std::accumulate(saved.begin(), saved.end(), 0.0);
  Curve curve;
  CurvePoint p;
  double moved_cells = 0;
  p.paper = p.exact = p.random = map_total(errors, std::vector<std::size_t>(d.table.cells.size(), 0)) / cells;
  const double start = p.random;
  curve.points.push_back(p);
  for (std::size_t k = 0; k < d.groups.count; ++k) {
    moved_cells += static_cast<double>(d.groups.sizes[by_score[k]]);
    p.moved = k + 1;
    p.share = moved_cells / cells;
    p.paper -= saved[by_score[k]] / cells;
    p.exact -= saved[by_saving[k]] / cells;
    p.random = start - whole * static_cast<double>(k + 1) / static_cast<double>(d.groups.count) / cells;
    curve.points.push_back(p);
  }
  check(d, by_score, saved, curve);
  return curve;
}

}  // namespace sage2
