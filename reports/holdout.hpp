#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "reports/design.hpp"

/// Is the map any good on samples it was not made from?
namespace sage2 {

/// Splits the draws by a seeded shuffle: the first table is to make the map from, the second holds `fraction` of the
/// draws (at least one, and never all) for testing it. Throws UsageError for a fraction outside (0, 1), DataError where
/// there are fewer than two draws or a cell has no sample in one of the parts.
[[nodiscard]] std::pair<CellTable, CellTable> split_units(const CellTable& table, double fraction, std::uint64_t seed);

/// The cells of `unseen` in the order of `made_from`. Throws DataError where the models differ or a cell is missing.
[[nodiscard]] CellTable align_cells(const CellTable& made_from, const CellTable& unseen);

/// How many records of `variants` in `unseen` are also in `runs` (same cell, same key): they are not unseen at all.
[[nodiscard]] std::size_t shared_records(std::span<const Run> runs, std::span<const Run> unseen,
                                         const std::vector<VariantId>& variants);

struct HoldoutRow {
  std::string label;
  MapSummary summary;  ///< on the unseen samples
  double regret = 0;   ///< mean error above the oracle's
};

/// Maps compared on the unseen samples: this map; the oracle (the best map of at most its cost, made with knowledge of
/// the unseen samples); random maps of the same size; the base and the fallback everywhere.
struct Holdout {
  std::size_t made_from = 0, unseen = 0;  ///< draws
  std::vector<HoldoutRow> rows;           ///< in the order above; the random row holds means
  std::size_t random_maps = 0;
  double random_low = 0, random_high = 0;  ///< 95 % of the random maps have a mean error between these
  double predicted = 0;                    ///< the map's mean error on the samples it was made from
};

[[nodiscard]] Holdout test_on_unseen(const Designer& designer, const MapDesign& design, const CellTable& unseen,
                                     std::uint64_t seed);

}  // namespace sage2
