#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "reports/error_metrics.hpp"

/// Evaluating a random subset of query rows: which rows, and how far the metrics may be from those of all rows.
namespace sage2 {

/// `count` of the rows 0 .. n_rows - 1 in ascending order, each subset equally likely; all rows where count >= n_rows.
/// The same on every platform.
[[nodiscard]] std::vector<std::uint32_t> sample_rows(std::size_t n_rows, std::size_t count, std::uint64_t seed);

/// The rows of one head that were evaluated.
struct SampledHead {
  std::span<const ErrorSums> rows;  ///< sums of each evaluated row
  std::size_t population = 0;       ///< rows that the head has
};

struct StandardErrors {
  double cos_sim = 0;
  double rel_l1 = 0;
  double rmse = 0;
};

/// Standard errors of cos_sim, rel_l1 and rmse over the pooled rows of all heads, as estimates of the same over all
/// rows: delta method, heads as strata, finite population correction (docs/numerics.md). Rows must have been drawn
/// independently in each head (mix the head's number into the seed). Empty where a head has a single evaluated row out
/// of several: one row says nothing about spread.
[[nodiscard]] std::optional<StandardErrors> standard_errors(std::span<const SampledHead> heads);

}  // namespace sage2
