#include "harness/agreement.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "datasets/convert.hpp"

namespace sage2 {
namespace {

/// Values that are summed together; fixed, so that sums do not depend on the number of threads.
constexpr std::size_t kPart = std::size_t{1} << 16;

double ratio(double difference, double whole) {
  if (difference == 0) return 0;
  return whole == 0 ? std::numeric_limits<double>::infinity() : difference / whole;
}

/// Calls f(begin, end) for all parts, in parallel, and merges what they give in their order.
template <class Result, class F>
Result in_parts(std::size_t n, const F& f) {
  std::vector<Result> parts((n + kPart - 1) / kPart);
#pragma omp parallel for schedule(dynamic)
  for (std::size_t i = 0; i < parts.size(); ++i) parts[i] = f(i * kPart, std::min(n, (i + 1) * kPart));
  Result all;
  for (const auto& part : parts) all.merge(part);
  return all;
}

void note_worst(Agreement& a, std::size_t at, float found, float expected) {
  a.differ = true;
  a.worst_at = at;
  a.worst_found = found;
  a.worst_expected = expected;
}

void compare_values(Agreement& a, std::size_t at, float found, float expected) {
  if (!std::isfinite(found) || !std::isfinite(expected)) {
    if (a.nonfinite++ == 0) note_worst(a, at, found, expected);
    return;
  }
  a.abs_difference += std::abs(static_cast<double>(found) - expected);
  a.abs_expected += std::abs(static_cast<double>(expected));
  if (std::bit_cast<std::uint32_t>(found) == std::bit_cast<std::uint32_t>(expected)) {
    ++a.same_fp32;
    ++a.same_bf16;
    return;
  }
  const auto ulp = static_cast<std::uint32_t>(std::abs(bfloat16_rank(found) - bfloat16_rank(expected)));
  if (ulp == 0) ++a.same_bf16;
  if (a.nonfinite == 0 && (!a.differ || ulp > a.worst_ulp)) note_worst(a, at, found, expected);
  a.worst_ulp = std::max(a.worst_ulp, ulp);
}

}  // namespace

std::int32_t bfloat16_rank(float value) {
  std::uint16_t bits = 0;
  narrow_bfloat16({&value, 1}, {&bits, 1});
  const std::int32_t magnitude = bits & 0x7fff;
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

double Agreement::rel_l1() const {
  return nonfinite > 0 ? std::numeric_limits<double>::quiet_NaN() : ratio(abs_difference, abs_expected);
}

void Agreement::merge(const Agreement& other) {
  const bool further =
      nonfinite == 0 && other.differ && (!differ || other.nonfinite > 0 || other.worst_ulp > worst_ulp);
  if (further) note_worst(*this, other.worst_at, other.worst_found, other.worst_expected);
  values += other.values;
  same_fp32 += other.same_fp32;
  same_bf16 += other.same_bf16;
  nonfinite += other.nonfinite;
  worst_ulp = std::max(worst_ulp, other.worst_ulp);
  abs_difference += other.abs_difference;
  abs_expected += other.abs_expected;
}

Agreement compare_outputs(std::span<const float> found, std::span<const float> expected) {
  if (found.size() != expected.size()) throw std::invalid_argument("compare_outputs: outputs differ in length");
  return in_parts<Agreement>(found.size(), [&](std::size_t begin, std::size_t end) {
    Agreement a;
    a.values = end - begin;
    for (std::size_t i = begin; i < end; ++i) compare_values(a, i, found[i], expected[i]);
    return a;
  });
}

double Distance::rel_l1() const {
  return ratio(difference, reference);
}

Distance distance(std::span<const float> o, std::span<const double> reference) {
  if (o.size() != reference.size()) throw std::invalid_argument("distance: outputs differ in length");
  return in_parts<Distance>(o.size(), [&](std::size_t begin, std::size_t end) {
    Distance d;
    for (std::size_t i = begin; i < end; ++i) {
      d.difference += std::abs(static_cast<double>(o[i]) - reference[i]);
      d.reference += std::abs(reference[i]);
    }
    return d;
  });
}

}  // namespace sage2
