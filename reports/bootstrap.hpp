#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "reports/design.hpp"

/// How far a ranking made from a few samples can be trusted: draws are resampled with replacement, the same draws in
/// every cell, and the map is made again each time.
namespace sage2 {

struct BootstrapOptions {
  std::size_t replicates = 1000;
  std::uint64_t seed = 0;
};

struct Bootstrap {
  std::size_t replicates = 0;
  std::size_t units = 0;
  /// 95 % percentile interval of each cell's ranking value (score, or cosine for its rule).
  std::vector<double> low, high;
  /// Share of the replicates that give the cell the variant it has in the map.
  std::vector<double> agreement;
  /// Kendall's tau-b between the ranking of all samples and that of a replicate: mean and 5 % quantile.
  double tau_mean = 0, tau_low = 0;
  /// Sentences that say why the ranking is not to be trusted; empty where nothing speaks against it.
  std::vector<std::string> warnings;
};

/// Below this many draws percentile intervals are known to be too narrow: with 5 draws a replicate still repeats the
/// sample exactly with probability 5!/5^5 = 4 %, with 4 already 9 %.
inline constexpr std::size_t kFewUnits = 5;
/// A mean tau below this means that more than one pair of cells in ten changes its order.
inline constexpr double kStableTau = 0.8;

/// With fewer than two draws there is nothing to resample: only the warning is filled in. Budgets, whose maps are
/// solved anew for every replicate, use at most 100 of them for `agreement`.
[[nodiscard]] Bootstrap bootstrap(const Designer& designer, const MapDesign& design, const BootstrapOptions& options);

}  // namespace sage2
