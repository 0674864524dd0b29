#include "reports/score.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "datasets/error.hpp"

namespace sage2 {
namespace {

TEST(Score, IsThePapersProduct) {
  EXPECT_DOUBLE_EQ(paper_score({0.9, 0.25, 0, 0, 0}), 0.675);
  EXPECT_DOUBLE_EQ(error_of({0.9, 0.25, 0, 0, 0}, Metric::score_distance), 0.325);
  EXPECT_DOUBLE_EQ(error_of({0.9, 0.25, 3, 4, 5}, parse_metric("sq_err")), 5);
  EXPECT_DOUBLE_EQ(error_of({0.75, 0, 0, 0, 0}, parse_metric("cos_sim")), 0.25);
  for (const auto& name : metric_names()) EXPECT_EQ(to_string(parse_metric(name)), name);
  EXPECT_THROW((void)parse_metric("psnr"), UsageError);
}

TEST(KendallTau, AgreesWithClosedForms) {
  const std::vector<double> up{1, 2, 3, 4, 5, 6};
  const std::vector<double> down{6, 5, 4, 3, 2, 1};
  EXPECT_DOUBLE_EQ(KendallTau(up).with(up), 1);
  EXPECT_DOUBLE_EQ(KendallTau(up).with(down), -1);
  // One swap of neighbours makes one of n (n - 1) / 2 pairs discordant: tau = 1 - 2 / 15.
  EXPECT_DOUBLE_EQ(KendallTau(up).with(std::vector<double>{1, 2, 4, 3, 5, 6}), 1 - 2.0 / 15);
  // The first moved to the end is behind n - 1 others: tau = 1 - 2 * 5 / 15.
  EXPECT_DOUBLE_EQ(KendallTau(up).with(std::vector<double>{6, 1, 2, 3, 4, 5}), 1 - 10.0 / 15);
  // tau-b with a tie in one ranking: 14 concordant, 1 tied of 15: 14 / sqrt(15 * 14).
  EXPECT_DOUBLE_EQ(KendallTau(up).with(std::vector<double>{1, 2, 3, 3, 5, 6}), 14 / std::sqrt(15.0 * 14.0));
  EXPECT_DOUBLE_EQ(KendallTau(up).with(std::vector<double>(6, 1.0)), 0);
}

TEST(KendallTau, AgreesWithCountingEveryPair) {
  std::mt19937_64 rng(5);
  for (int round = 0; round < 100; ++round) {
    const std::size_t n = 2 + rng() % 40;
    std::vector<double> a(n);
    std::vector<double> b(n);
    for (std::size_t i = 0; i < n; ++i) {
      a[i] = static_cast<double>(rng() % 12);  // few values: many ties
      b[i] = static_cast<double>(rng() % 12);
    }
    double difference = 0;
    double untied_a = 0;
    double untied_b = 0;
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        const double x = (a[i] > a[j]) - (a[i] < a[j]);
        const double y = (b[i] > b[j]) - (b[i] < b[j]);
        difference += x * y;
        untied_a += x * x;
        untied_b += y * y;
      }
    }
    const double expected = untied_a * untied_b == 0 ? 0 : difference / std::sqrt(untied_a * untied_b);
    EXPECT_NEAR(KendallTau(a).with(b), expected, 1e-14);  // a quotient and two roots
  }
}

TEST(Score, BreaksTiesByIndex) {
  EXPECT_EQ(ascending(std::vector<double>{2, 1, 2, 1}), (std::vector<std::size_t>{1, 3, 0, 2}));
}

}  // namespace
}  // namespace sage2
