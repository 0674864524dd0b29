#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "reference/error_histogram.hpp"
#include "reports/error_metrics.hpp"

/// How far an output is from the FP64 reference (docs/numerics.md).
namespace sage2 {

/// A sum with the rounding error of every addition carried along (Neumaier): as if added in twice the precision.
/// NaN and infinity both end as NaN.
class CompensatedSum {
 public:
  void add(double x);
  void add(const CompensatedSum& other);
  [[nodiscard]] double value() const { return sum_ + low_; }

 private:
  double sum_ = 0;
  double low_ = 0;
};

/// Errors that were summed and counted elsewhere, on a GPU for example.
struct ErrorParts {
  ErrorSums sums;
  std::uint64_t nan = 0;               ///< NaN in the output
  std::uint64_t inf = 0;               ///< infinity in the output
  std::uint64_t nonfinite_errors = 0;  ///< of non-finite outputs and references
  double max_abs = 0;                  ///< of the finite errors
  ErrorHistogram histogram;            ///< likewise
};

/// Errors over any set of rows: add rows, merge sets, read metrics. The counts, the histogram and the maximum do not
/// depend on the order at all, the sums only in their last bit. A few KiB.
///
/// An output that holds NaN or infinity is never hidden: its cos_sim, rel_l1, rmse and max_abs are NaN, and so are the
/// percentiles that its non-finite errors (ranked above all others) reach.
class ErrorStats {
 public:
  ErrorStats() = default;
  explicit ErrorStats(const ErrorParts& parts);

  /// Adds one row of the reference and of the output, equally long. Returns that row's own sums, for standard errors.
  ErrorSums add_row(std::span<const double> reference, std::span<const float> output);
  void merge(const ErrorStats& other);

  [[nodiscard]] ErrorSums sums() const;
  /// All of ErrorMetrics except the standard errors. Percentile p is the smallest error that at least p of all errors
  /// do not exceed, to within 0.8%.
  [[nodiscard]] ErrorMetrics metrics() const;
  [[nodiscard]] std::uint64_t nan() const { return nan_; }                      ///< NaN in the output
  [[nodiscard]] std::uint64_t inf() const { return inf_; }                      ///< infinity in the output
  [[nodiscard]] const ErrorHistogram& histogram() const { return histogram_; }  ///< of the finite errors

 private:
  /// All but the count.
  void add_sums(const ErrorSums& sums);
  [[nodiscard]] double percentile(double p) const;

  CompensatedSum ref_ref_, out_out_, ref_out_, abs_err_, abs_ref_, sq_err_;
  std::uint64_t count_ = 0;
  std::uint64_t nan_ = 0;
  std::uint64_t inf_ = 0;
  std::uint64_t nonfinite_errors_ = 0;  ///< of non-finite outputs and references
  double max_abs_ = 0;                  ///< of the finite errors
  ErrorHistogram histogram_;            ///< likewise
};

}  // namespace sage2
