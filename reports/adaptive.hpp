#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "reports/bench.hpp"
#include "reports/map.hpp"
#include "reports/metric.hpp"
#include "reports/model_cells.hpp"

/// What an adaptive map buys: errors of a model that runs some cells in a costlier variant, pooled from records.
namespace sage2 {

/// Two variants between which cells are divided.
struct BasePair {
  const VariantCells* base = nullptr;
  const VariantCells* fallback = nullptr;
};

/// The variant whose canonical spelling or name is `text`; nullptr where the model has no records of it.
[[nodiscard]] const VariantCells* find_variant_cells(const ModelCells& model, const std::string& text);

/// The map's pair, or sage2-4b and sage2-8b without a map; nothing where the model lacks records of one of them.
[[nodiscard]] std::optional<BasePair> base_pair(const ModelCells& model, const std::optional<AdaptiveMap>& map);

/// The cells as the map assigns them, to whatever variants it names; cells it does not name run the base. Cells that
/// base or fallback lack are left out.
[[nodiscard]] std::vector<CellStats> mixed_cells(const ModelCells& model, const BasePair& pair, const AdaptiveMap& map);

/// One point of the curve of error against share: the `cells` worst cells (by the paper's score CosSim (1 - RelL1) of
/// the base variant, ties by layer and timestep) run the fallback.
struct ParetoPoint {
  std::size_t cells = 0;  ///< that do not run the base
  double share = 0;       ///< cells / all cells
  double error = 0;       ///< mean over cells of the metric
  double worst = 0;       ///< worst cell's metric
  double ms = 0;          ///< of one call of every cell; NaN where a benchmark lacks a shape
};

/// From 0 to all cells, at most `points` of them. NaN metrics stay NaN.
[[nodiscard]] std::vector<ParetoPoint> pareto_curve(const BasePair& pair, const MetricInfo& metric,
                                                    const std::vector<BenchEntry>& bench, std::size_t points = 200);

/// The same numbers for the cells a map chose.
[[nodiscard]] ParetoPoint pareto_point(const ModelCells& model, const BasePair& pair, const AdaptiveMap& map,
                                       const MetricInfo& metric, const std::vector<BenchEntry>& bench);

}  // namespace sage2
