#include "reference/sampling.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "gtest/gtest.h"
#include "reference/metrics.hpp"
#include "tests/reference/problems.hpp"

namespace sage2 {
namespace {

using Rows = std::vector<std::uint32_t>;

TEST(SampleRows, AreTheSameOnEveryPlatform) {
  // From an implementation in Python's integers; its SplitMix64 starts with 0xe220a8397b1dcdaf for seed 0, as
  // published.
  EXPECT_EQ(sample_rows(1000, 8, 42), (Rows{24, 57, 126, 127, 445, 523, 598, 867}));
  EXPECT_EQ(sample_rows(131072, 4, 2024), (Rows{48064, 51585, 97713, 112118}));
}

TEST(SampleRows, AreAscendingAndDistinct) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    const Rows rows = sample_rows(100, 37, seed);
    ASSERT_EQ(rows.size(), 37U);
    EXPECT_LT(rows.back(), 100U);
    EXPECT_TRUE(std::adjacent_find(rows.begin(), rows.end(), std::greater_equal<>()) == rows.end());
  }
}

TEST(SampleRows, AreAllWhereEnoughAreAskedFor) {
  Rows all(10);
  std::iota(all.begin(), all.end(), 0U);
  EXPECT_EQ(sample_rows(10, 10, 1), all);
  EXPECT_EQ(sample_rows(10, 99, 1), all);
  EXPECT_TRUE(sample_rows(10, 0, 1).empty());
  EXPECT_TRUE(sample_rows(0, 5, 1).empty());
}

TEST(SampleRows, TakeEachRowAndEachPairEquallyOften) {
  constexpr int kSeeds = 40'000;
  constexpr std::size_t kRows = 12;
  constexpr std::size_t kTaken = 4;
  std::map<std::uint32_t, int> single;
  std::map<std::pair<std::uint32_t, std::uint32_t>, int> pairs;
  for (int seed = 0; seed < kSeeds; ++seed) {
    const Rows rows = sample_rows(kRows, kTaken, static_cast<std::uint64_t>(seed));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      ++single[rows[i]];
      for (std::size_t j = i + 1; j < rows.size(); ++j) ++pairs[{rows[i], rows[j]}];
    }
  }
  // Five standard deviations of a binomial count.
  const auto expect_count = [](int count, double p) {
    EXPECT_NEAR(count, kSeeds * p, 5 * std::sqrt(kSeeds * p * (1 - p)));
  };
  ASSERT_EQ(single.size(), kRows);
  ASSERT_EQ(pairs.size(), kRows * (kRows - 1) / 2);
  for (const auto& [row, count] : single) expect_count(count, 4.0 / 12);
  for (const auto& [pair, count] : pairs) expect_count(count, 4.0 * 3 / (12 * 11));
}

/// Row sums of heads that differ in level, with errors that grow along the rows and with the row's magnitude.
std::vector<std::vector<ErrorSums>> population(std::size_t heads, std::size_t rows) {
  testing::Random random(21);
  std::vector<std::vector<ErrorSums>> all(heads);
  for (std::size_t h = 0; h < heads; ++h) {
    for (std::size_t i = 0; i < rows; ++i) {
      const double magnitude = (1.0 + 2.0 * static_cast<double>(h)) * (0.5 + testing::uniform(random));
      const double error = 0.1 * magnitude * (0.2 + static_cast<double>(i) / static_cast<double>(rows));
      std::vector<double> reference(16);
      std::vector<float> output(16);
      for (std::size_t c = 0; c < 16; ++c) {
        reference[c] = magnitude * testing::gaussian(random);
        output[c] = static_cast<float>(reference[c] + error * testing::gaussian(random));
      }
      all[h].push_back(ErrorStats().add_row(reference, output));
    }
  }
  return all;
}

/// Means and spread of a metric over many subsets, and what its standard error claimed.
struct Spread {
  double sum = 0, squares = 0, claimed_variance = 0;
  int n = 0;
  void add(double value, double se) {
    sum += value;
    squares += value * value;
    claimed_variance += se * se;
    ++n;
  }
  [[nodiscard]] double mean() const { return sum / n; }
  [[nodiscard]] double observed() const { return std::sqrt((squares - sum * sum / n) / (n - 1)); }
  [[nodiscard]] double claimed() const { return std::sqrt(claimed_variance / n); }
};

TEST(StandardErrors, AgreeWithTheSpreadOverRandomSubsets) {
  constexpr std::size_t kHeads = 3;
  constexpr std::size_t kRows = 240;
  constexpr std::size_t kTaken = 120;  // half: without the population correction the claim would be 41% too large
  constexpr int kSubsets = 4000;
  const auto all = population(kHeads, kRows);
  ErrorSums truth;
  for (const auto& head : all) {
    for (const ErrorSums& row : head) add(truth, row);
  }

  Spread cos_sim, rel_l1, rmse;
  for (int subset = 0; subset < kSubsets; ++subset) {
    std::vector<std::vector<ErrorSums>> taken(kHeads);
    std::vector<SampledHead> heads;
    ErrorSums pooled;
    for (std::size_t h = 0; h < kHeads; ++h) {
      for (const std::uint32_t i : sample_rows(kRows, kTaken, static_cast<std::uint64_t>(subset) * kHeads + h)) {
        taken[h].push_back(all[h][i]);
        add(pooled, all[h][i]);
      }
      heads.push_back({taken[h], kRows});
    }
    const ErrorMetrics m = ratios(pooled);
    const auto se = standard_errors(heads);
    ASSERT_TRUE(se.has_value());
    cos_sim.add(m.cos_sim, se->cos_sim);
    rel_l1.add(m.rel_l1, se->rel_l1);
    rmse.add(m.rmse, se->rmse);
  }

  // A standard deviation observed over n values is off by 1/sqrt(2 (n - 1)) = 1.1%: five of these. Linearisation adds
  // a relative 1/(heads x taken) = 0.3%.
  constexpr double kTolerance = 0.06;
  const ErrorMetrics exact = ratios(truth);
  const auto expect_honest = [&](const Spread& s, double value) {
    EXPECT_NEAR(s.claimed() / s.observed(), 1, kTolerance);
    // The metric itself is estimated without a bias that the standard error would not cover.
    EXPECT_NEAR(s.mean(), value, 0.2 * s.observed());
  };
  expect_honest(cos_sim, exact.cos_sim);
  expect_honest(rel_l1, exact.rel_l1);
  expect_honest(rmse, exact.rmse);
}

TEST(StandardErrors, AreZeroWhereAllRowsWereTaken) {
  const auto all = population(2, 50);
  const std::vector<SampledHead> heads{{all[0], 50}, {all[1], 50}};
  const auto se = standard_errors(heads);
  ASSERT_TRUE(se.has_value());
  EXPECT_EQ(se->cos_sim, 0);
  EXPECT_EQ(se->rel_l1, 0);
  EXPECT_EQ(se->rmse, 0);
}

TEST(StandardErrors, CannotBeToldFromOneRow) {
  const auto all = population(2, 50);
  const std::vector<SampledHead> heads{{all[0], 100}, {std::span(all[1]).first(1), 50}};
  EXPECT_FALSE(standard_errors(heads).has_value());
}

TEST(StandardErrors, OfAPerfectOutputAreZero) {
  const ErrorSums row{4, 4, 4, 0, 2, 0, 1};
  const std::vector<ErrorSums> rows(5, row);
  const std::vector<SampledHead> heads{{rows, 100}};
  const auto se = standard_errors(heads);
  ASSERT_TRUE(se.has_value());
  EXPECT_EQ(se->cos_sim, 0);
  EXPECT_EQ(se->rel_l1, 0);
  EXPECT_EQ(se->rmse, 0);
}

TEST(StandardErrors, OfRelativeL1MatchAHandComputedRatioEstimator) {
  // Errors 1, 2, 6 over references 1, 1, 2 of 30 rows: R = 9/4, residuals -5/4, -1/4, 6/4 (sum 0), s^2 = 62/32;
  // se = sqrt((1 - 0.1) s^2 / 3) / (4/3).
  std::vector<ErrorSums> rows(3);
  const double errors[] = {1, 2, 6};
  const double references[] = {1, 1, 2};
  for (std::size_t i = 0; i < 3; ++i) rows[i] = {1, 1, 1, errors[i], references[i], 1, 1};
  const std::vector<SampledHead> heads{{rows, 30}};
  const auto se = standard_errors(heads);
  ASSERT_TRUE(se.has_value());
  EXPECT_DOUBLE_EQ(se->rel_l1, std::sqrt(0.9 * (62.0 / 32) / 3) / (4.0 / 3));
}

}  // namespace
}  // namespace sage2
