#pragma once

#include <cstdint>
#include <optional>

/// Plain numbers that say how far an output is from the FP64 reference, and what happened on the way.
namespace sage2 {

/// Errors of one output against the FP64 reference O, over some set of elements. Definitions in docs/numerics.md.
struct ErrorMetrics {
  double cos_sim = 0;                          ///< sum O O' / sqrt(sum O^2 sum O'^2)
  double rel_l1 = 0;                           ///< sum |O - O'| / sum |O|
  double rmse = 0;                             ///< sqrt(mean (O - O')^2)
  double max_abs = 0;                          ///< max |O - O'|
  double p50 = 0, p90 = 0, p99 = 0, p999 = 0;  ///< percentiles of |O - O'|
  /// Standard errors over sampled query rows; present where only a subset was evaluated.
  std::optional<double> cos_sim_se, rel_l1_se, rmse_se;
};

/// The sums behind cos_sim, rel_l1 and rmse: records are pooled exactly by adding these.
struct ErrorSums {
  double ref_ref = 0;  ///< sum O^2
  double out_out = 0;  ///< sum O'^2
  double ref_out = 0;  ///< sum O O'
  double abs_err = 0;  ///< sum |O - O'|
  double abs_ref = 0;  ///< sum |O|
  double sq_err = 0;   ///< sum (O - O')^2
  double count = 0;    ///< number of elements
};

/// What happened to the numbers on the way.
struct EventCounts {
  std::uint64_t nan = 0;          ///< NaN in the output
  std::uint64_t inf = 0;          ///< infinity in the output
  std::uint64_t p_underflow = 0;  ///< visible entries of P that rounded to zero
  std::uint64_t p_total = 0;      ///< visible entries of P
  std::uint64_t saturated = 0;    ///< codes of Q, K, V and P that were clamped to their format's range
};

/// Pools sets of elements (heads, cells, samples) exactly.
void add(ErrorSums& into, const ErrorSums& more);
void add(EventCounts& into, const EventCounts& more);

/// cos_sim, rel_l1 and rmse of pooled sums; the rest is left at 0. Two zero outputs agree perfectly (cos_sim 1), a zero
/// against a non-zero one not at all (cos_sim 0). NaN in the sums stays NaN.
[[nodiscard]] ErrorMetrics ratios(const ErrorSums& sums);

}  // namespace sage2
