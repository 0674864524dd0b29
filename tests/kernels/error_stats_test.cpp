#include "kernels/error_stats.hpp"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"
#include "kernels/device_buffer.hpp"
#include "kernels/device_info.hpp"
#include "tests/reference/problems.hpp"

namespace sage2::cuda {
namespace {

class ErrorStatsOnDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    if (find_devices().devices.empty()) GTEST_SKIP() << "no GPU";
  }
};

struct Outputs {
  std::int64_t heads, rows, cols;
  std::vector<double> reference;
  std::vector<float> output;
};

Outputs random_outputs(std::int64_t heads, std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  testing::Random random(seed);
  Outputs o{heads, rows, cols, {}, {}};
  const auto n = static_cast<std::size_t>(heads * rows * cols);
  o.reference.reserve(n);
  o.output.reserve(n);
  for (std::size_t i = 0; i < n; ++i) {
    // Errors over many octaves, some exactly zero.
    const double reference = testing::uniform(random) - 0.5;
    const double error = std::exp2(-40.0 * testing::uniform(random)) * (random() % 8 == 0 ? 0 : 1);
    o.output.push_back(static_cast<float>(reference + error));
    o.reference.push_back(random() % 16 == 0 ? static_cast<double>(o.output.back()) : reference);
  }
  return o;
}

std::vector<HeadErrors> on_device(const Outputs& o, bool with_row_sums) {
  const Stream stream;
  DeviceBuffer<double> reference(o.reference.size(), stream.get());
  DeviceBuffer<float> output(o.output.size(), stream.get());
  reference.upload(o.reference);
  output.upload(o.output);
  return error_stats(reference.data(), output.data(), o.heads, o.rows, o.cols, with_row_sums, stream.get());
}

HeadErrors on_host(const Outputs& o, std::int64_t head) {
  HeadErrors expected;
  for (std::int64_t i = 0; i < o.rows; ++i) {
    const auto at = static_cast<std::size_t>((head * o.rows + i) * o.cols);
    const auto cols = static_cast<std::size_t>(o.cols);
    expected.row_sums.push_back(expected.stats.add_row({o.reference.data() + at, cols}, {o.output.data() + at, cols}));
  }
  return expected;
}

/// Within a few last bits of sums of `n` positive terms in FP64, or of `scale`, their magnitudes' sum; or both NaN.
void expect_sum(double actual, double expected, double scale, const char* what) {
  if (actual == expected) return;  // the scale itself may have overflowed
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(actual)) << what << ": " << actual;
  } else {
    // At most 64 terms are added plainly, by either engine: 64 * 2^-53 each.
    EXPECT_LE(std::abs(actual - expected), 128 * 0x1p-53 * scale) << what << ": " << actual << " not " << expected;
  }
}

void expect_sums(const ErrorSums& actual, const ErrorSums& expected) {
  expect_sum(actual.ref_ref, expected.ref_ref, expected.ref_ref, "ref_ref");
  expect_sum(actual.out_out, expected.out_out, expected.out_out, "out_out");
  expect_sum(actual.ref_out, expected.ref_out, std::sqrt(expected.ref_ref) * std::sqrt(expected.out_out), "ref_out");
  expect_sum(actual.abs_err, expected.abs_err, expected.abs_err, "abs_err");
  expect_sum(actual.abs_ref, expected.abs_ref, expected.abs_ref, "abs_ref");
  expect_sum(actual.sq_err, expected.sq_err, expected.sq_err, "sq_err");
  EXPECT_EQ(actual.count, expected.count);
}

void expect_equal(const Outputs& o) {
  const auto actual = on_device(o, true);
  ASSERT_EQ(actual.size(), static_cast<std::size_t>(o.heads));
  for (std::int64_t h = 0; h < o.heads; ++h) {
    SCOPED_TRACE(::testing::Message() << "head " << h << " of " << o.heads << " x " << o.rows << " x " << o.cols);
    const HeadErrors& a = actual[static_cast<std::size_t>(h)];
    const HeadErrors e = on_host(o, h);
    EXPECT_TRUE(a.stats.histogram() == e.stats.histogram())
        << a.stats.histogram().count() << " numbers, not " << e.stats.histogram().count();
    EXPECT_EQ(a.stats.nan(), e.stats.nan());
    EXPECT_EQ(a.stats.inf(), e.stats.inf());
    const ErrorMetrics am = a.stats.metrics();
    const ErrorMetrics em = e.stats.metrics();
    const auto same = [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); };
    EXPECT_TRUE(same(am.max_abs, em.max_abs)) << am.max_abs << " not " << em.max_abs;
    EXPECT_TRUE(same(am.p50, em.p50)) << am.p50 << " not " << em.p50;
    EXPECT_TRUE(same(am.p90, em.p90)) << am.p90 << " not " << em.p90;
    EXPECT_TRUE(same(am.p99, em.p99)) << am.p99 << " not " << em.p99;
    EXPECT_TRUE(same(am.p999, em.p999)) << am.p999 << " not " << em.p999;
    expect_sums(a.stats.sums(), e.stats.sums());
    ASSERT_EQ(a.row_sums.size(), e.row_sums.size());
    for (std::size_t i = 0; i < e.row_sums.size(); ++i) {
      SCOPED_TRACE(::testing::Message() << "row " << i);
      expect_sums(a.row_sums[i], e.row_sums[i]);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

TEST_F(ErrorStatsOnDevice, EqualTheCpus) {
  expect_equal(random_outputs(1, 1, 1, 1));
  expect_equal(random_outputs(3, 5, 7, 2));
  expect_equal(random_outputs(2, 100, 64, 3));
  expect_equal(random_outputs(2, 256, 128, 4));  // one chunk to the last element
  expect_equal(random_outputs(2, 257, 128, 5));  // and one more row
  expect_equal(random_outputs(3, 1000, 200, 6));
  expect_equal(random_outputs(70, 40, 80, 7));  // more heads than go at once
  expect_equal(random_outputs(1, 20'000, 128, 8));
}

TEST_F(ErrorStatsOnDevice, CountEveryMagnitude) {
  Outputs o{1, 4, 4, {}, {}};
  o.reference = {1e30, 0, 5e-324, 1e-30, 1, 1e300, 1e-58, 1e-57, 6e57, 7e57, 0x1p-192, 0x1p192, 0.1, 0.2, 0.3, 0.4};
  o.output.assign(16, 0.0F);
  expect_equal(o);
}

TEST_F(ErrorStatsOnDevice, NeverHideWhatIsNotFinite) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  Outputs o = random_outputs(4, 300, 64, 9);
  o.output[5] = nan;              // head 0
  o.output[300 * 64 + 77] = inf;  // head 1
  o.output[300 * 64 + 9999] = -inf;
  o.reference[2 * 300 * 64 + 3] = nan;  // head 2
  expect_equal(o);
  const auto stats = on_device(o, false);
  EXPECT_TRUE(stats[0].row_sums.empty());
  EXPECT_EQ(stats[0].stats.nan(), 1U);
  EXPECT_EQ(stats[1].stats.inf(), 2U);
  EXPECT_TRUE(std::isnan(stats[0].stats.metrics().rmse));
  EXPECT_TRUE(std::isnan(stats[1].stats.metrics().rmse));
  EXPECT_TRUE(std::isnan(stats[2].stats.metrics().max_abs));
  EXPECT_TRUE(std::isfinite(stats[3].stats.metrics().rmse));
  Outputs all = random_outputs(1, 100, 64, 10);
  std::fill(all.output.begin(), all.output.end(), nan);
  expect_equal(all);
}

TEST_F(ErrorStatsOnDevice, KnowClosedForms) {
  Outputs same = random_outputs(1, 1000, 128, 11);
  for (std::size_t i = 0; i < same.output.size(); ++i) same.reference[i] = same.output[i];
  const ErrorMetrics none = on_device(same, false)[0].stats.metrics();
  EXPECT_DOUBLE_EQ(none.cos_sim, 1);
  EXPECT_EQ(none.rel_l1, 0);
  EXPECT_EQ(none.rmse, 0);
  EXPECT_EQ(none.max_abs, 0);
  EXPECT_EQ(none.p999, 0);
  // Twice the reference, all ones: every sum is exact.
  Outputs twice{1, 1000, 128, std::vector<double>(128'000, 1.0), std::vector<float>(128'000, 2.0F)};
  const ErrorMetrics m = on_device(twice, false)[0].stats.metrics();
  EXPECT_DOUBLE_EQ(m.cos_sim, 1);
  EXPECT_EQ(m.rel_l1, 1);
  EXPECT_EQ(m.rmse, 1);
  EXPECT_EQ(m.max_abs, 1);
}

TEST_F(ErrorStatsOnDevice, KeepWhatNaiveSumsLose) {
  // One square of 2^54 among squares of 1: FP64 does not hold 2^54 + 1.
  Outputs o{1, 1024, 128, std::vector<double>(131'072, 1.0), std::vector<float>(131'072, 1.0F)};
  o.reference[0] = 0x1p27;
  o.output[0] = 0x1p27F;
  const ErrorSums sums = on_device(o, false)[0].stats.sums();
  // The 63 ones that meet it in the same thread may be lost, no others.
  EXPECT_NEAR(sums.out_out, 0x1p54 + 131'071, 64);
  EXPECT_NEAR(sums.ref_ref, 0x1p54 + 131'071, 64);
}

TEST_F(ErrorStatsOnDevice, RepeatThemselvesToTheLastBit) {
  const Outputs o = random_outputs(3, 3000, 128, 12);
  const auto first = on_device(o, true);
  const auto again = on_device(o, true);
  for (std::size_t h = 0; h < 3; ++h) {
    const ErrorSums a = first[h].stats.sums();
    const ErrorSums b = again[h].stats.sums();
    EXPECT_EQ(a.ref_ref, b.ref_ref);
    EXPECT_EQ(a.out_out, b.out_out);
    EXPECT_EQ(a.ref_out, b.ref_out);
    EXPECT_EQ(a.abs_err, b.abs_err);
    EXPECT_EQ(a.abs_ref, b.abs_ref);
    EXPECT_EQ(a.sq_err, b.sq_err);
  }
}

TEST_F(ErrorStatsOnDevice, KnowNothingOfNothing) {
  const auto none = on_device({2, 0, 64, {}, {}}, true);
  ASSERT_EQ(none.size(), 2U);
  EXPECT_EQ(none[1].stats.sums().count, 0);
  EXPECT_EQ(none[1].stats.metrics().rmse, 0);
}

}  // namespace
}  // namespace sage2::cuda
