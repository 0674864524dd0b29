#include "reference/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "gtest/gtest.h"
#include "tests/reference/problems.hpp"

namespace sage2 {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

ErrorStats stats_of(const std::vector<double>& reference, const std::vector<float>& output, std::size_t row_length) {
  ErrorStats stats;
  for (std::size_t i = 0; i < reference.size(); i += row_length) {
    const std::size_t n = std::min(row_length, reference.size() - i);
    stats.add_row({reference.data() + i, n}, {output.data() + i, n});
  }
  return stats;
}

struct Sample {
  std::vector<double> reference;
  std::vector<float> output;
};

Sample random_sample(std::size_t n, std::uint64_t seed, double magnitude = 1) {
  testing::Random random(seed);
  Sample s;
  for (std::size_t i = 0; i < n; ++i) {
    const double reference = magnitude * testing::gaussian(random);
    s.reference.push_back(reference);
    s.output.push_back(static_cast<float>(reference + 0.1 * magnitude * testing::gaussian(random)));
  }
  return s;
}

TEST(ErrorStats, KnowsIdenticalOutputs) {
  const ErrorMetrics m = stats_of({1, -2, 3, 4}, {1, -2, 3, 4}, 2).metrics();
  EXPECT_DOUBLE_EQ(m.cos_sim, 1);
  EXPECT_EQ(m.rel_l1, 0);
  EXPECT_EQ(m.rmse, 0);
  EXPECT_EQ(m.max_abs, 0);
  EXPECT_EQ(m.p999, 0);
}

TEST(ErrorStats, KnowsOrthogonalOutputs) {
  const ErrorMetrics m = stats_of({1, 0, 1, 0}, {0, 1, 0, 1}, 2).metrics();
  EXPECT_EQ(m.cos_sim, 0);
  EXPECT_DOUBLE_EQ(m.rel_l1, 2);
  EXPECT_DOUBLE_EQ(m.rmse, 1);
  EXPECT_EQ(m.max_abs, 1);
}

TEST(ErrorStats, KnowsScaledOutputs) {
  const ErrorMetrics m = stats_of({3, -4, 0, 5}, {6, -8, 0, 10}, 4).metrics();
  EXPECT_DOUBLE_EQ(m.cos_sim, 1);
  EXPECT_DOUBLE_EQ(m.rel_l1, 1);
  EXPECT_DOUBLE_EQ(m.rmse, std::sqrt(50.0 / 4));
  EXPECT_EQ(m.max_abs, 5);
}

TEST(ErrorStats, KnowsNegatedOutputs) {
  const ErrorMetrics m = stats_of({3, -4}, {-3, 4}, 2).metrics();
  EXPECT_DOUBLE_EQ(m.cos_sim, -1);
  EXPECT_DOUBLE_EQ(m.rel_l1, 2);
  EXPECT_DOUBLE_EQ(m.rmse, std::sqrt(50.0));
}

TEST(ErrorStats, KnowsZeroReferences) {
  const ErrorMetrics both = stats_of({0, 0}, {0, 0}, 2).metrics();
  EXPECT_EQ(both.cos_sim, 1);
  EXPECT_EQ(both.rel_l1, 0);
  const ErrorMetrics one = stats_of({0, 0}, {0, 1}, 2).metrics();
  EXPECT_EQ(one.cos_sim, 0);
  EXPECT_EQ(one.rel_l1, std::numeric_limits<double>::infinity());
  const ErrorMetrics none = ErrorStats().metrics();
  EXPECT_EQ(none.rmse, 0);
  EXPECT_EQ(none.p50, 0);
}

TEST(ErrorStats, ShowsOneOutlierInTheMaximumButNotInThePercentiles) {
  std::vector<double> reference(10'000, 1.0);
  std::vector<float> output(10'000, 1.0F);
  output[1234] = 101;
  const ErrorMetrics m = stats_of(reference, output, 64).metrics();
  EXPECT_EQ(m.max_abs, 100);
  EXPECT_EQ(m.p50, 0);
  EXPECT_EQ(m.p999, 0);
  EXPECT_DOUBLE_EQ(m.rmse, 1);
  EXPECT_DOUBLE_EQ(m.rel_l1, 0.01);
}

TEST(ErrorStats, DoesNotDependOnTheMagnitude) {
  const Sample plain = random_sample(5000, 3);
  const ErrorMetrics expected = stats_of(plain.reference, plain.output, 100).metrics();
  // Powers of two near 1e-30 and 1e30 leave every significand alone.
  for (const double scale : {0x1p-100, 0x1p100}) {
    Sample scaled = plain;
    for (double& x : scaled.reference) x *= scale;
    for (float& x : scaled.output) x = static_cast<float>(x * scale);
    const ErrorMetrics m = stats_of(scaled.reference, scaled.output, 100).metrics();
    EXPECT_EQ(m.cos_sim, expected.cos_sim);
    EXPECT_EQ(m.rel_l1, expected.rel_l1);
    EXPECT_EQ(m.rmse, expected.rmse * scale);
    EXPECT_EQ(m.max_abs, expected.max_abs * scale);
    EXPECT_EQ(m.p50, expected.p50 * scale);
    EXPECT_EQ(m.p999, expected.p999 * scale);
  }
}

TEST(ErrorStats, KeepsWhatNaiveSumsLose) {
  // One square of 2^54 and 2^16 squares of 1: neither FP32 nor FP64 holds 2^54 + 1.
  constexpr std::size_t kRows = 1U << 16U;
  const double big = 0x1p27;
  double naive = big * big;
  ErrorStats stats;
  const double reference_big[] = {big};
  const float output_big[] = {0x1p27F};
  stats.add_row(reference_big, output_big);
  const double reference_one[] = {1};
  const float output_one[] = {1};
  for (std::size_t i = 0; i < kRows; ++i) {
    stats.add_row(reference_one, output_one);
    naive += 1;
  }
  EXPECT_EQ(naive, 0x1p54);
  EXPECT_EQ(stats.sums().out_out, 0x1p54 + 0x1p16);
  EXPECT_EQ(stats.sums().ref_ref, 0x1p54 + 0x1p16);
  EXPECT_EQ(stats.sums().abs_ref, 0x1p27 + 0x1p16);
}

TEST(ErrorStats, AgreesWithTheDefinitionsInExtendedPrecision) {
  for (const std::size_t length : {1U, 7U, 64U, 128U, 255U, 256U, 257U, 1000U}) {
    const Sample s = random_sample(3000, length);
    long double rr = 0, oo = 0, ro = 0, e1 = 0, r1 = 0, e2 = 0;
    double largest = 0;
    for (std::size_t i = 0; i < s.reference.size(); ++i) {
      const long double r = s.reference[i];
      const long double o = s.output[i];
      rr += r * r;
      oo += o * o;
      ro += r * o;
      e1 += std::abs(r - o);
      r1 += std::abs(r);
      e2 += (r - o) * (r - o);
      largest = std::max(largest, std::abs(s.reference[i] - static_cast<double>(s.output[i])));
    }
    const ErrorStats stats = stats_of(s.reference, s.output, length);
    const ErrorSums sums = stats.sums();
    // Up to 257 roundings of 2^-53 in a chunk of 256, relative to sums of absolute values; compensation across rows.
    constexpr double kTolerance = 260 * 0x1p-53;
    const auto expect_near = [](double found, long double exact, long double tolerance) {
      EXPECT_LE(std::abs(found - exact), tolerance) << found;
    };
    expect_near(sums.ref_ref, rr, kTolerance * rr);
    expect_near(sums.out_out, oo, kTolerance * oo);
    expect_near(sums.ref_out, ro, kTolerance * (rr + oo) / 2);
    expect_near(sums.abs_err, e1, kTolerance * e1);
    expect_near(sums.abs_ref, r1, kTolerance * r1);
    expect_near(sums.sq_err, e2, kTolerance * e2);
    EXPECT_EQ(sums.count, 3000);
    const ErrorMetrics m = stats.metrics();
    expect_near(m.cos_sim, ro / std::sqrt(rr * oo), 3 * kTolerance);
    expect_near(m.rel_l1, e1 / r1, 3 * kTolerance);
    expect_near(m.rmse, std::sqrt(e2 / 3000), 3 * kTolerance);
    EXPECT_EQ(m.max_abs, largest);
  }
}

TEST(ErrorStats, PercentilesMeetTheSortedErrorsWithinABucket) {
  testing::Random random(11);
  for (const std::size_t n : {1U, 2U, 9U, 100U, 1000U, 100'000U}) {
    for (const double octaves : {0.5, 8.0, 60.0}) {
      // Against an output of zero the errors are the references themselves; one in eight is an exact zero.
      std::vector<double> errors(n);
      for (double& x : errors) {
        x = random() % 8 == 0 ? 0 : std::exp2(-octaves * static_cast<double>(random() >> 11U) * 0x1p-53);
      }
      const ErrorMetrics m = stats_of(errors, std::vector<float>(n), 128).metrics();
      std::sort(errors.begin(), errors.end());
      const auto exact = [&](double p) {
        return errors[static_cast<std::size_t>(std::ceil(p * static_cast<double>(n))) - 1];
      };
      constexpr double kResolution = 1.0 / 128;  // half a bucket of 1/64 octave, relative to its lower edge
      EXPECT_NEAR(m.p50, exact(0.5), kResolution * exact(0.5));
      EXPECT_NEAR(m.p90, exact(0.9), kResolution * exact(0.9));
      EXPECT_NEAR(m.p99, exact(0.99), kResolution * exact(0.99));
      EXPECT_NEAR(m.p999, exact(0.999), kResolution * exact(0.999));
      EXPECT_EQ(m.max_abs, errors.back());
      EXPECT_LE(m.p999, m.max_abs);
    }
  }
}

TEST(ErrorHistogram, HoldsEveryMagnitude) {
  ErrorHistogram h;
  const std::vector<double> values{1e30, 0, 5e-324, 1e-30, 1, 1e300};
  h.add(values);
  EXPECT_EQ(h.count(), 6U);
  EXPECT_EQ(h.at_rank(1), 0);
  EXPECT_NEAR(h.at_rank(2), 0x1p-192, 0x1p-198);  // the outermost bucket
  EXPECT_NEAR(h.at_rank(3), 1e-30, 1e-30 / 128);
  EXPECT_NEAR(h.at_rank(4), 1, 1.0 / 64);
  EXPECT_NEAR(h.at_rank(5), 1e30, 1e30 / 128);
  EXPECT_NEAR(h.at_rank(6), 0x1p192, 0x1p186);
}

TEST(ErrorHistogram, TakesCountsMadeElsewhere) {
  const std::vector<double> values{0, 1e-30, 1e-30, 0.3, 0.31, 1, 1.99, 1e300, 5e-324, 0, 7e5};
  ErrorHistogram expected;
  expected.add(values);
  std::uint64_t zeros = 0;
  std::vector<std::uint64_t> counts(kHighestErrorBucket - kLowestErrorBucket + 1);
  for (const double x : values) {
    const std::uint32_t bucket = error_bucket(x);
    if (bucket == kZeroErrorBucket) {
      ++zeros;
    } else {
      ASSERT_GE(bucket, kLowestErrorBucket);
      ASSERT_LE(bucket, kHighestErrorBucket);
      ++counts[bucket - kLowestErrorBucket];
    }
  }
  ErrorHistogram h;
  h.add_counts(zeros, kLowestErrorBucket, counts);
  EXPECT_TRUE(h == expected);
  EXPECT_EQ(h.count(), values.size());

  // In two parts, the second without anything but zeros; then something that differs in one count.
  ErrorHistogram two;
  two.add_counts(0, kLowestErrorBucket, counts);
  EXPECT_FALSE(two == expected);
  two.add_counts(zeros, kLowestErrorBucket, {});
  EXPECT_TRUE(two == expected);
  two.add(std::vector<double>{0.3});
  EXPECT_FALSE(two == expected);

  const std::uint64_t one[] = {1};
  EXPECT_THROW(h.add_counts(0, kHighestErrorBucket + 1, one), std::invalid_argument);
  EXPECT_THROW(h.add_counts(0, kLowestErrorBucket - 1, one), std::invalid_argument);
}

TEST(ErrorStats, IsTheSumOfPartsMadeElsewhere) {
  Sample s = random_sample(640, 11);
  s.output[17] = kNaN;
  s.output[18] = -kInf;
  s.reference[400] = kNaN;
  const ErrorStats expected = stats_of(s.reference, s.output, 64);
  ErrorParts parts;
  parts.sums = expected.sums();
  parts.nan = 1;
  parts.inf = 1;
  parts.nonfinite_errors = 3;
  std::vector<double> errors;
  for (std::size_t i = 0; i < 640; ++i) {
    const double error = std::abs(s.reference[i] - static_cast<double>(s.output[i]));
    if (std::isfinite(error)) errors.push_back(error);
  }
  parts.max_abs = *std::max_element(errors.begin(), errors.end());
  parts.histogram.add(errors);
  const ErrorStats made(parts);
  EXPECT_EQ(made.nan(), expected.nan());
  EXPECT_EQ(made.inf(), expected.inf());
  EXPECT_TRUE(made.histogram() == expected.histogram());
  EXPECT_EQ(made.sums().count, 640);
  EXPECT_EQ(made.metrics().p50, expected.metrics().p50);
  EXPECT_TRUE(std::isnan(made.metrics().max_abs));
  EXPECT_TRUE(std::isnan(made.metrics().p999));
  EXPECT_TRUE(std::isnan(made.metrics().rmse));

  // Merging goes on as with any other set.
  ErrorParts finite;
  finite.sums = {4, 5, 3, 1, 2, 1, 1};
  finite.max_abs = 1;
  finite.histogram.add(std::vector<double>{1});
  ErrorStats merged = stats_of({2}, {1}, 1);
  merged.merge(ErrorStats(finite));
  EXPECT_EQ(merged.sums().out_out, 6);
  EXPECT_EQ(merged.sums().count, 2);
  EXPECT_EQ(merged.metrics().max_abs, 1);
  EXPECT_EQ(merged.metrics().rmse, 1);
}

TEST(ErrorStats, MergedSetsEqualOnePass) {
  const Sample s = random_sample(64 * 90, 5);
  const ErrorStats whole = stats_of(s.reference, s.output, 64);
  for (const bool backwards : {false, true}) {
    std::vector<ErrorStats> parts(3);
    for (std::size_t i = 0; i < 90; ++i) {
      parts[(i + i / 7) % 3].add_row({s.reference.data() + 64 * i, 64}, {s.output.data() + 64 * i, 64});
    }
    if (backwards) std::reverse(parts.begin(), parts.end());
    ErrorStats merged;
    for (const ErrorStats& part : parts) merged.merge(part);
    const ErrorMetrics a = whole.metrics();
    const ErrorMetrics b = merged.metrics();
    EXPECT_EQ(a.max_abs, b.max_abs);
    EXPECT_EQ(a.p50, b.p50);
    EXPECT_EQ(a.p90, b.p90);
    EXPECT_EQ(a.p99, b.p99);
    EXPECT_EQ(a.p999, b.p999);
    EXPECT_EQ(whole.sums().count, merged.sums().count);
    // Compensated sums: the last bit, twice.
    EXPECT_NEAR(whole.sums().ref_out, merged.sums().ref_out, 0x1p-51 * std::abs(whole.sums().ref_out));
    EXPECT_NEAR(whole.sums().sq_err, merged.sums().sq_err, 0x1p-51 * whole.sums().sq_err);
    EXPECT_NEAR(whole.sums().abs_err, merged.sums().abs_err, 0x1p-51 * whole.sums().abs_err);
  }
}

TEST(ErrorStats, RowsReturnTheirOwnSums) {
  const Sample s = random_sample(300, 8);
  ErrorStats stats;
  const ErrorSums row = stats.add_row(s.reference, s.output);
  EXPECT_EQ(row.sq_err, stats.sums().sq_err);
  EXPECT_EQ(row.ref_out, stats.sums().ref_out);
  EXPECT_EQ(row.count, 300);
}

TEST(ErrorStats, NeverHidesNonFiniteOutputs) {
  for (const float bad : {kNaN, kInf, -kInf}) {
    for (const double reference : {1.0, 0.0}) {
      std::vector<float> output(1000, 2.0F);
      output[500] = bad;
      const ErrorStats stats = stats_of(std::vector<double>(1000, reference), output, 64);
      EXPECT_EQ(stats.nan(), std::isnan(bad) ? 1U : 0U);
      EXPECT_EQ(stats.inf(), std::isnan(bad) ? 0U : 1U);
      const ErrorMetrics m = stats.metrics();
      EXPECT_TRUE(std::isnan(m.cos_sim));
      EXPECT_TRUE(std::isnan(m.rel_l1));
      EXPECT_TRUE(std::isnan(m.rmse));
      EXPECT_TRUE(std::isnan(m.max_abs));
      EXPECT_NEAR(m.p50, 2 - reference, (2 - reference) / 64);
      EXPECT_FALSE(std::isnan(m.p999));  // the 999th of 1000 errors
      // Sums pooled with a clean set stay NaN as well, since records are pooled by their sums.
      ErrorSums pooled = stats.sums();
      add(pooled, stats_of({1}, {1}, 1).sums());
      EXPECT_TRUE(std::isnan(ratios(pooled).cos_sim));
      EXPECT_TRUE(std::isnan(ratios(pooled).rel_l1));
      EXPECT_TRUE(std::isnan(ratios(pooled).rmse));
    }
  }
}

TEST(ErrorStats, PercentilesReachNonFiniteOutputs) {
  std::vector<float> output(1000, 2.0F);
  std::fill(output.begin(), output.begin() + 20, kInf);
  output[20] = kNaN;
  const ErrorStats stats = stats_of(std::vector<double>(1000, 1.0), output, 100);
  EXPECT_EQ(stats.inf(), 20U);
  EXPECT_EQ(stats.nan(), 1U);
  EXPECT_NEAR(stats.metrics().p90, 1, 1.0 / 64);
  EXPECT_TRUE(std::isnan(stats.metrics().p99));
}

TEST(ErrorStats, NonFiniteReferencesAreNotCountedAsOutputs) {
  const ErrorStats stats = stats_of({1, kNaN, 3}, {1, 2, 3}, 3);
  EXPECT_EQ(stats.nan(), 0U);
  EXPECT_TRUE(std::isnan(stats.metrics().cos_sim));
  EXPECT_TRUE(std::isnan(stats.metrics().max_abs));
}

TEST(ErrorStats, RefusesRowsOfDifferentLength) {
  ErrorStats stats;
  const std::vector<double> reference(3);
  const std::vector<float> output(2);
  EXPECT_THROW(stats.add_row(reference, output), std::invalid_argument);
}

}  // namespace
}  // namespace sage2
