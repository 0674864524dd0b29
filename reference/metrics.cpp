#include "reference/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace sage2 {
namespace {

constexpr std::size_t kChunk = 256;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// Sums over at most kChunk elements, in vector lanes; |reference - output| goes to `errors`.
ErrorSums chunk_sums(const double* reference, const float* output, std::size_t n, double* errors, double& max_abs) {
  double ref_ref = 0;
  double out_out = 0;
  double ref_out = 0;
  double abs_err = 0;
  double abs_ref = 0;
  double sq_err = 0;
  double largest = 0;
#pragma omp simd reduction(+ : ref_ref, out_out, ref_out, abs_err, abs_ref, sq_err) reduction(max : largest)
  for (std::size_t i = 0; i < n; ++i) {
    const double ref = reference[i];
    const double out = output[i];
    const double error = std::abs(ref - out);
    errors[i] = error;
    ref_ref += ref * ref;
    out_out += out * out;
    ref_out += ref * out;
    abs_err += error;
    abs_ref += std::abs(ref);
    sq_err += error * error;
    largest = error > largest ? error : largest;
  }
  max_abs = largest;
  return {ref_ref, out_out, ref_out, abs_err, abs_ref, sq_err, static_cast<double>(n)};
}

}  // namespace

void CompensatedSum::add(double x) {
  const double sum = sum_ + x;
  low_ += std::abs(sum_) >= std::abs(x) ? (sum_ - sum) + x : (x - sum) + sum_;
  sum_ = sum;
}

void CompensatedSum::add(const CompensatedSum& other) {
  add(other.sum_);
  low_ += other.low_;
}

ErrorStats::ErrorStats(const ErrorParts& parts)
    : count_(static_cast<std::uint64_t>(parts.sums.count)),
      nan_(parts.nan),
      inf_(parts.inf),
      nonfinite_errors_(parts.nonfinite_errors),
      max_abs_(parts.max_abs),
      histogram_(parts.histogram) {
  add_sums(parts.sums);
}

ErrorSums ErrorStats::add_row(std::span<const double> reference, std::span<const float> output) {
  if (reference.size() != output.size()) {
    throw std::invalid_argument("ErrorStats: rows of the reference and of the output differ in length");
  }
  std::array<double, kChunk> errors;
  ErrorSums row;
  for (std::size_t begin = 0; begin < reference.size(); begin += kChunk) {
    const std::size_t n = std::min(kChunk, reference.size() - begin);
    double largest = 0;
    const ErrorSums sums = chunk_sums(reference.data() + begin, output.data() + begin, n, errors.data(), largest);
    std::size_t finite = n;
    if (std::isfinite(sums.abs_err)) {
      max_abs_ = std::max(max_abs_, largest);
    } else {
      for (const float out : output.subspan(begin, n)) {
        nan_ += std::isnan(out) ? 1 : 0;
        inf_ += std::isinf(out) ? 1 : 0;
      }
      const auto* const end =
          std::remove_if(errors.begin(), errors.begin() + n, [](double error) { return !std::isfinite(error); });
      finite = static_cast<std::size_t>(end - errors.begin());
      nonfinite_errors_ += n - finite;
      for (std::size_t i = 0; i < finite; ++i) max_abs_ = std::max(max_abs_, errors[i]);
    }
    histogram_.add({errors.data(), finite});
    add(row, sums);
  }
  add_sums(row);
  count_ += reference.size();
  return row;
}

void ErrorStats::add_sums(const ErrorSums& sums) {
  ref_ref_.add(sums.ref_ref);
  out_out_.add(sums.out_out);
  ref_out_.add(sums.ref_out);
  abs_err_.add(sums.abs_err);
  abs_ref_.add(sums.abs_ref);
  sq_err_.add(sums.sq_err);
}

void ErrorStats::merge(const ErrorStats& other) {
  ref_ref_.add(other.ref_ref_);
  out_out_.add(other.out_out_);
  ref_out_.add(other.ref_out_);
  abs_err_.add(other.abs_err_);
  abs_ref_.add(other.abs_ref_);
  sq_err_.add(other.sq_err_);
  count_ += other.count_;
  nan_ += other.nan_;
  inf_ += other.inf_;
  nonfinite_errors_ += other.nonfinite_errors_;
  max_abs_ = std::max(max_abs_, other.max_abs_);
  histogram_.merge(other.histogram_);
}

ErrorSums ErrorStats::sums() const {
  return {ref_ref_.value(), out_out_.value(), ref_out_.value(),           abs_err_.value(),
          abs_ref_.value(), sq_err_.value(),  static_cast<double>(count_)};
}

ErrorMetrics ErrorStats::metrics() const {
  ErrorMetrics m = ratios(sums());
  m.max_abs = nonfinite_errors_ > 0 ? kNaN : max_abs_;
  m.p50 = percentile(0.5);
  m.p90 = percentile(0.9);
  m.p99 = percentile(0.99);
  m.p999 = percentile(0.999);
  return m;
}

double ErrorStats::percentile(double p) const {
  if (count_ == 0) return 0;
  const auto rank = static_cast<std::uint64_t>(std::ceil(p * static_cast<double>(count_)));
  if (rank > count_ - nonfinite_errors_) return kNaN;
  return std::min(histogram_.at_rank(rank), max_abs_);
}

}  // namespace sage2
