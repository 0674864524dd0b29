#include "reference/sampling.hpp"

#include <algorithm>
#include <cmath>

namespace sage2 {
namespace {

/// SplitMix64 (Steele, Lea, Flood 2014).
class SplitMix {
 public:
  explicit SplitMix(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    state_ += 0x9e3779b97f4a7c15U;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27U)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31U);
  }

  /// Uniform in 0 .. n - 1: what is left of 2^64 beyond a multiple of n is drawn again.
  std::uint64_t below(std::uint64_t n) {
    const std::uint64_t rest = (0 - n) % n;
    std::uint64_t x = next();
    while (x < rest) x = next();
    return x % n;
  }

 private:
  std::uint64_t state_;
};

/// Variance of a stratum's estimated total of `residual` (row -> value), by simple random sampling.
template <class Residual>
double total_variance(const SampledHead& head, Residual residual) {
  const auto n = static_cast<double>(head.rows.size());
  const auto population = static_cast<double>(head.population);
  double mean = 0;
  for (const ErrorSums& row : head.rows) mean += residual(row) / n;
  double squares = 0;
  for (const ErrorSums& row : head.rows) squares += std::pow(residual(row) - mean, 2);
  return population * population * (1 - n / population) * squares / (n - 1) / n;
}

}  // namespace

std::vector<std::uint32_t> sample_rows(std::size_t n_rows, std::size_t count, std::uint64_t seed) {
  count = std::min(count, n_rows);
  std::vector<std::uint32_t> rows;
  rows.reserve(count);
  SplitMix random(seed);
  // Selection sampling: each row is taken with probability (still wanted) / (still to come).
  for (std::size_t i = 0; rows.size() < count; ++i) {
    if (random.below(n_rows - i) < count - rows.size()) rows.push_back(static_cast<std::uint32_t>(i));
  }
  return rows;
}

std::optional<StandardErrors> standard_errors(std::span<const SampledHead> heads) {
  // Totals over all rows as the sample estimates them.
  ErrorSums total;
  for (const SampledHead& head : heads) {
    if (head.rows.size() == head.population) continue;
    if (head.rows.size() < 2) return std::nullopt;
  }
  for (const SampledHead& head : heads) {
    const double weight = static_cast<double>(head.population) / static_cast<double>(head.rows.size());
    for (const ErrorSums& row : head.rows) {
      add(total, {weight * row.ref_ref, weight * row.out_out, weight * row.ref_out, weight * row.abs_err,
                  weight * row.abs_ref, weight * row.sq_err, weight * row.count});
    }
  }
  const ErrorMetrics metrics = ratios(total);
  const double norms = std::sqrt(total.ref_ref) * std::sqrt(total.out_out);

  // A metric g of the totals T moves by sum_k dg/dT_k dT_k: its variance is that of the total of these residuals.
  const auto cos_sim = [&](const ErrorSums& row) {
    return row.ref_out / norms - 0.5 * metrics.cos_sim * (row.ref_ref / total.ref_ref + row.out_out / total.out_out);
  };
  const auto rel_l1 = [&](const ErrorSums& row) {
    return (row.abs_err - metrics.rel_l1 * row.abs_ref) / total.abs_ref;
  };
  const auto mean_square = [&](const ErrorSums& row) {
    return (row.sq_err - metrics.rmse * metrics.rmse * row.count) / total.count;
  };
  StandardErrors variance;
  for (const SampledHead& head : heads) {
    if (head.rows.size() == head.population) continue;
    if (norms > 0) variance.cos_sim += total_variance(head, cos_sim);
    if (total.abs_ref > 0) variance.rel_l1 += total_variance(head, rel_l1);
    variance.rmse += total_variance(head, mean_square);
  }
  return StandardErrors{.cos_sim = std::sqrt(variance.cos_sim),
                        .rel_l1 = std::sqrt(variance.rel_l1),
                        .rmse = metrics.rmse > 0 ? std::sqrt(variance.rmse) / (2 * metrics.rmse) : 0};
}

}  // namespace sage2
