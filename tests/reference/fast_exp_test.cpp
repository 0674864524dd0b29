#include "reference/fast_exp.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "fmt/core.h"
#include "gtest/gtest.h"
#include "tests/reference/problems.hpp"

namespace sage2 {
namespace {

TEST(FastExp, StaysWithinItsBoundOfExtendedPrecision) {
  if (std::numeric_limits<long double>::digits < 64) GTEST_SKIP() << "long double is no wider than double here";
  testing::Random random(7);
  double worst = 0;
  int beyond = 0;
  const auto check = [&](double x) {
    const long double exact = std::exp(static_cast<long double>(x));
    const auto error = static_cast<double>(std::abs((exp_nonpositive(x) - exact) / exact));
    if (!(error <= kExpError)) ++beyond;
    worst = std::max(worst, error);
  };
  for (int i = 0; i < 1'000'000; ++i) {
    const double t = static_cast<double>(random() >> 11U) * 0x1p-53;
    check(-t);
    check(-708 * t);
    check(-std::ldexp(t, -static_cast<int>(random() % 64)));
  }
  // Both sides of every boundary of the range reduction, where r is largest.
  for (int n = 0; n < 1021; ++n) {
    const double edge = -(n + 0.5) * std::log(2.0);
    check(edge);
    check(std::nextafter(edge, 0.0));
    check(std::nextafter(edge, -1000.0));
  }
  RecordProperty("worst_ulp", fmt::format("{:.3f}", worst / 0x1p-52));
  EXPECT_EQ(beyond, 0);
}

TEST(FastExp, MeetsItsSpecialValues) {
  EXPECT_EQ(exp_nonpositive(0.0), 1.0);
  EXPECT_EQ(exp_nonpositive(-0.0), 1.0);
  EXPECT_EQ(exp_nonpositive(-5e-324), 1.0);
  EXPECT_EQ(exp_nonpositive(std::nextafter(-708.0, -709.0)), 0.0);
  EXPECT_EQ(exp_nonpositive(-1e308), 0.0);
  EXPECT_EQ(exp_nonpositive(-std::numeric_limits<double>::infinity()), 0.0);
  EXPECT_TRUE(std::isnan(exp_nonpositive(std::numeric_limits<double>::quiet_NaN())));
}

}  // namespace
}  // namespace sage2
