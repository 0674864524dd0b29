#include "reference/exact_attention.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "fmt/core.h"
#include "gtest/gtest.h"
#include "tests/reference/problems.hpp"

namespace sage2 {
namespace {

using testing::ProblemSpec;
using testing::random_problem;

/// One row in extended precision by the definition: all scores, their maximum, then the sums.
struct ExtendedRow {
  std::vector<long double> o;
  std::vector<long double> weight;  ///< sum_j p_j |v_jc|, what the bound is relative to
  long double lse = -std::numeric_limits<long double>::infinity();
  long double max_score = 0;  ///< max_j sm_scale sum_c |q_c| |k_jc|
};

ExtendedRow extended_attention(const HeadProblem& problem, std::size_t i) {
  const std::size_t keys = problem.visible(i);
  ExtendedRow row;
  row.o.assign(problem.v.cols, 0);
  row.weight.assign(problem.v.cols, 0);
  if (keys == 0) return row;
  std::vector<long double> score(keys, 0);
  for (std::size_t j = 0; j < keys; ++j) {
    long double magnitude = 0;
    for (std::size_t c = 0; c < problem.q.cols; ++c) {
      const long double product = static_cast<long double>(problem.q(i, c)) * problem.k(j, c) * problem.sm_scale;
      score[j] += product;
      magnitude += std::abs(product);
    }
    row.max_score = std::max(row.max_score, magnitude);
  }
  const long double m = *std::max_element(score.begin(), score.end());
  long double l = 0;
  for (std::size_t j = 0; j < keys; ++j) {
    const long double p = std::exp(score[j] - m);
    l += p;
    for (std::size_t c = 0; c < problem.v.cols; ++c) {
      row.o[c] += p * problem.v(j, c);
      row.weight[c] += p * std::abs(problem.v(j, c));
    }
  }
  for (std::size_t c = 0; c < problem.v.cols; ++c) {
    row.o[c] /= l;
    row.weight[c] /= l;
  }
  row.lse = m + std::log(l);
  return row;
}

struct Case {
  const char* name;
  ProblemSpec spec;
  float scores_up_to = 0;  ///< sm_scale is chosen so that |score| reaches this; 0: 1/sqrt(d)
};

class ExactAttention : public ::testing::TestWithParam<Case> {};

TEST_P(ExactAttention, StaysWithinItsBoundOfExtendedPrecision) {
  if (std::numeric_limits<long double>::digits < 64) GTEST_SKIP() << "long double is no wider than double here";
  const Case& c = GetParam();
  HeadProblem problem = random_problem(c.spec);
  if (c.scores_up_to > 0) {
    problem.sm_scale = 1;
    long double largest = 0;
    for (std::size_t i = 0; i < problem.q.rows; ++i) {
      for (std::size_t j = 0; j < problem.visible(i); ++j) {
        long double score = 0;
        for (std::size_t k = 0; k < problem.q.cols; ++k) {
          score += static_cast<long double>(problem.q(i, k)) * problem.k(j, k);
        }
        largest = std::max(largest, std::abs(score));
      }
    }
    problem.sm_scale = static_cast<float>(c.scores_up_to / largest);
  }
  const ExactOutput out = exact_attention(problem);
  ASSERT_EQ(out.rows, problem.q.rows);
  ASSERT_EQ(out.cols, problem.v.cols);

  // The extended computation obeys the same bound with 2^-64 for 2^-53.
  constexpr double kExtended = 1 + 0x1p-11;
  double worst_o = 0;
  double worst_lse = 0;
  double worst_relative = 0;
  for (std::size_t i = 0; i < out.rows; ++i) {
    const ExtendedRow exact = extended_attention(problem, i);
    const std::size_t keys = problem.visible(i);
    if (keys == 0) {
      EXPECT_EQ(out.lse[i], -std::numeric_limits<double>::infinity());
      for (const double o : out.row(i)) EXPECT_EQ(o, 0.0);
      continue;
    }
    const ExactBound bound = exact_attention_bound(problem.q.cols, keys, static_cast<double>(exact.max_score));
    ASSERT_LT(bound.o, 1e-6) << "a bound this large says nothing";
    for (std::size_t k = 0; k < out.cols; ++k) {
      const auto error = static_cast<double>(std::abs(out.row(i)[k] - exact.o[k]));
      const auto weight = static_cast<double>(exact.weight[k]);
      ASSERT_LE(error, kExtended * bound.o * weight) << "row " << i << " channel " << k;
      if (weight > 0) {
        worst_o = std::max(worst_o, error / (bound.o * weight));
        worst_relative = std::max(worst_relative, error / weight);
      }
    }
    const auto error = static_cast<double>(std::abs(out.lse[i] - exact.lse));
    ASSERT_LE(error, kExtended * bound.lse) << "row " << i;
    worst_lse = std::max(worst_lse, error / bound.lse);
  }
  RecordProperty("worst_o_of_bound", fmt::format("{:.4f}", worst_o));
  RecordProperty("worst_lse_of_bound", fmt::format("{:.4f}", worst_lse));
  RecordProperty("worst_relative_error", fmt::format("{:.2e}", worst_relative));
}

INSTANTIATE_TEST_SUITE_P(
    Cases, ExactAttention,
    ::testing::Values(
        Case{"random", {.q_len = 200, .kv_len = 300, .head_dim = 64}},
        Case{"biased", {.q_len = 130, .kv_len = 257, .head_dim = 128, .q_bias = 4, .k_bias = 8, .v_bias = 8}},
        Case{"flat", {.q_len = 50, .kv_len = 1000, .head_dim = 32, .q_spread = 0.01F}},
        Case{"peaked", {.q_len = 100, .kv_len = 400, .head_dim = 64, .q_spread = 10}},
        Case{"scores_to_700", {.q_len = 96, .kv_len = 300, .head_dim = 64}, 700},
        Case{"scores_to_700_biased", {.q_len = 96, .kv_len = 300, .head_dim = 64, .q_bias = 2, .k_bias = 2}, 700},
        Case{"causal", {.q_len = 300, .kv_len = 300, .head_dim = 64, .is_causal = true}},
        Case{"causal_peaked", {.q_len = 300, .kv_len = 300, .head_dim = 64, .is_causal = true, .q_spread = 8}},
        Case{"causal_more_keys", {.q_len = 100, .kv_len = 333, .head_dim = 48, .is_causal = true}},
        Case{"causal_more_queries", {.q_len = 333, .kv_len = 100, .head_dim = 48, .is_causal = true}},
        Case{"causal_top_left_more_keys",
             {.q_len = 100, .kv_len = 333, .head_dim = 40, .is_causal = true, .causal_align = CausalAlign::top_left}},
        Case{"causal_top_left_more_queries",
             {.q_len = 333, .kv_len = 100, .head_dim = 40, .is_causal = true, .causal_align = CausalAlign::top_left}},
        Case{"more_queries", {.q_len = 300, .kv_len = 20, .head_dim = 64}},
        Case{"decoding", {.q_len = 1, .kv_len = 1500, .head_dim = 128, .is_causal = true}},
        Case{"one_token", {.q_len = 1, .kv_len = 1, .head_dim = 64}},
        Case{"one_channel", {.q_len = 70, .kv_len = 129, .head_dim = 1}},
        Case{"odd_channels", {.q_len = 40, .kv_len = 140, .head_dim = 71}},
        Case{"widest", {.q_len = 40, .kv_len = 140, .head_dim = 256}}),
    [](const auto& tested) { return tested.param.name; });

TEST(ExactAttentionClosedForm, EqualScoresAverageV) {
  HeadProblem p = random_problem({.q_len = 5, .kv_len = 256, .head_dim = 16});
  std::fill(p.q.data.begin(), p.q.data.end(), 0.0F);
  const ExactOutput out = exact_attention(p);
  for (std::size_t c = 0; c < 16; ++c) {
    double sum = 0;
    for (std::size_t j = 0; j < 256; ++j) sum += p.v(j, c);  // FP16 values: every partial sum is exact
    for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(out.row(i)[c], sum / 256);
  }
  for (const double lse : out.lse) EXPECT_DOUBLE_EQ(lse, std::log(256.0));
}

TEST(ExactAttentionClosedForm, TwoKeysAreALogisticFunction) {
  HeadProblem p;
  p.q = Matrix(1, 1);
  p.k = Matrix(2, 1);
  p.v = Matrix(2, 1);
  p.q(0, 0) = 1;
  p.k(0, 0) = 3;
  p.v(0, 0) = 1;
  p.sm_scale = 0.5F;
  const ExactOutput out = exact_attention(p);
  EXPECT_DOUBLE_EQ(out.o[0], 1 / (1 + std::exp(-1.5)));
  EXPECT_DOUBLE_EQ(out.lse[0], std::log(std::exp(1.5) + 1));
}

TEST(ExactAttentionRows, AreTheSameBitsInAnyCompanyAndOrder) {
  const HeadProblem p = random_problem({.q_len = 500, .kv_len = 300, .head_dim = 72, .is_causal = true});
  const ExactOutput all = exact_attention(p);
  const std::vector<std::uint32_t> rows{499, 3, 250, 251, 3, 208};
  const ExactOutput some = exact_attention(p, rows);
  ASSERT_EQ(some.rows, rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(some.lse[i], all.lse[rows[i]]);
    EXPECT_TRUE(std::ranges::equal(some.row(i), all.row(rows[i]))) << "row " << rows[i];
  }
}

TEST(ExactAttentionRows, DoNotDependOnTheNumberOfThreads) {
  const HeadProblem p = random_problem({.q_len = 700, .kv_len = 300, .head_dim = 64});
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const ExactOutput one = exact_attention(p);
  omp_set_num_threads(3);
  const ExactOutput three = exact_attention(p);
  omp_set_num_threads(before);
  EXPECT_EQ(one.o, three.o);
  EXPECT_EQ(one.lse, three.lse);
}

TEST(ExactAttentionRows, RefusesWhatIsNotThere) {
  HeadProblem p = random_problem({.q_len = 4, .kv_len = 4, .head_dim = 8});
  const std::vector<std::uint32_t> rows{4};
  EXPECT_THROW((void)exact_attention(p, rows), std::invalid_argument);
  p.v = Matrix(3, 8);
  EXPECT_THROW((void)exact_attention(p), std::invalid_argument);
}

TEST(ExactAttentionNonFinite, ReachesExactlyTheRowsThatSeeIt) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const HeadProblem clean = random_problem({.q_len = 300, .kv_len = 300, .head_dim = 16, .is_causal = true});
  const ExactOutput expected = exact_attention(clean);
  for (const float bad : {nan, inf}) {
    for (const bool in_v : {false, true}) {
      HeadProblem p = clean;
      (in_v ? p.v : p.k)(200, 5) = bad;
      const ExactOutput out = exact_attention(p);
      for (std::size_t i = 0; i < 300; ++i) {
        for (std::size_t c = 0; c < 16; ++c) {
          const double o = out.row(i)[c];
          if (i < 200) {
            // Rows beside a non-finite V are summed in another order.
            EXPECT_NEAR(o, expected.row(i)[c], 1e-13) << i << ' ' << c;
          } else if (in_v) {
            EXPECT_EQ(std::isfinite(o), c != 5) << i << ' ' << c;
          } else if (std::isnan(bad)) {
            EXPECT_TRUE(std::isnan(o)) << i << ' ' << c;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace sage2
