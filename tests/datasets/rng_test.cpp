#include "datasets/rng.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace sage2 {
namespace {

// Known answers published with the algorithm (Random123, kat_vectors: philox4x32, 10 rounds).
TEST(Rng, PhiloxGivesThePublishedAnswers) {
  using Words = std::array<std::uint32_t, 4>;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// Four ulp: two for the series, one for the product with ln 2, one for the sum.
TEST(Rng, LogAgreesWithTheLibrary) {
  for (int e = -40; e <= 40; ++e) {
    for (double m = 1.0; m < 2.0; m += 1.0 / 1024) {
      const double x = std::ldexp(m, e);
      const double expected = std::log(x);
      EXPECT_TRUE(std::abs(portable_log(x) - expected) <= 4 * 0x1p-53 * std::max(std::abs(expected), 0x1p-10)) << x;
    }
  }
}

// The quantile is checked through the closed-form distribution function, erfc(-x / sqrt 2) / 2. What erfc amplifies:
// its relative condition is about x^2, at most 41 here, and both sides are good to a few 2^-53.
TEST(Rng, QuantileInvertsTheNormalDistribution) {
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 65537) {
    const double p = RandomStream::to_uniform(static_cast<std::uint32_t>(bits));
    const double x = normal_quantile(p);
    const double tail = std::min(p, 1.0 - p);
    const double found = 0.5 * std::erfc(std::abs(x) / std::sqrt(2.0));
    ASSERT_TRUE(std::abs(found - tail) <= 1e-13 * tail) << p;
    ASSERT_EQ(x < 0, p < 0.5) << p;
  }
  EXPECT_EQ(normal_quantile(0.5), 0.0);
}

// Moments and the Kolmogorov-Smirnov distance of n = 10^6 numbers of a fixed stream. Tolerances are five standard
// errors of each statistic: mean 1/sqrt n, variance sqrt(2/n), skewness sqrt(6/n), kurtosis sqrt(24/n); the distance
// exceeds 2.5/sqrt n with probability 2 exp(-12.5) = 7e-6.
TEST(Rng, NormalNumbersAreNormal) {
  constexpr std::size_t n = 1000000;
  const RandomStream stream = RandomStream(1).at(2).at(3);
  std::vector<double> x(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = stream.normal(i);
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
  for (const double v : x) m1 += v / n;
  for (const double v : x) {
    const double a = v - m1;
    m2 += a * a / n;
    m3 += a * a * a / n;
    m4 += a * a * a * a / n;
  }
  const double root = std::sqrt(static_cast<double>(n));
  EXPECT_TRUE(std::abs(m1) <= 5 / root) << m1;
  EXPECT_TRUE(std::abs(m2 - 1) <= 5 * std::sqrt(2.0) / root) << m2;
  EXPECT_TRUE(std::abs(m3 / std::pow(m2, 1.5)) <= 5 * std::sqrt(6.0) / root) << m3;
  EXPECT_TRUE(std::abs(m4 / (m2 * m2) - 3) <= 5 * std::sqrt(24.0) / root) << m4;
  std::sort(x.begin(), x.end());
  double distance = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const double cdf = 0.5 * std::erfc(-x[i] / std::sqrt(2.0));
    const auto rank = static_cast<double>(i);
    distance = std::max({distance, std::abs(cdf - rank / n), std::abs(cdf - (rank + 1) / n)});
  }
  EXPECT_TRUE(distance <= 2.5 / root) << distance;
}

// Streams of neighbouring parts, and neighbours in one stream, have no correlation: five standard errors, 5/sqrt n.
TEST(Rng, StreamsAreIndependent) {
  constexpr std::size_t n = 100000;
  const RandomStream root(7);
  const RandomStream a = root.at(0), b = root.at(1), c = root.at(0).at(1), d = RandomStream(8).at(0);
  double ab = 0, ac = 0, ad = 0, lag = 0;
  for (std::size_t i = 0; i < n; ++i) {
    ab += a.normal(i) * b.normal(i) / n;
    ac += a.normal(i) * c.normal(i) / n;
    ad += a.normal(i) * d.normal(i) / n;
    lag += a.normal(i) * a.normal(i + 1) / n;
  }
  const double tolerance = 5 / std::sqrt(static_cast<double>(n));
  for (const double r : {ab, ac, ad, lag}) EXPECT_TRUE(std::abs(r) <= tolerance) << r;
}

TEST(Rng, IndicesAreUniform) {
  constexpr std::size_t n = 70000;
  const RandomStream stream(3);
  std::array<double, 7> counts{};
  for (std::size_t i = 0; i < n; ++i) counts.at(stream.index(i, 7)) += 1;
  double chi2 = 0;  // with 6 degrees of freedom; above 35 with probability 4e-6
  for (const double count : counts) chi2 += (count - 10000) * (count - 10000) / 10000;
  EXPECT_TRUE(chi2 <= 35) << chi2;
}

}  // namespace
}  // namespace sage2
