#include "reports/rules.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "datasets/error.hpp"
#include "reports/design.hpp"
#include "tests/reports/toy_run.hpp"

namespace sage2 {
namespace {

using test::ids;
using test::ToyRun;

TEST(Rules, FractionMeansTheNearestWholeNumber) {
  EXPECT_EQ(fraction_count(0.3, 40), 12U);
  EXPECT_EQ(fraction_count(0.3, 15), 5U);  // 4.5, halves up
  EXPECT_EQ(fraction_count(0.0, 7), 0U);
  EXPECT_EQ(fraction_count(1.0, 7), 7U);
  for (const double wrong : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THROW((void)fraction_count(wrong, 10), UsageError);
  }
}

TEST(Rules, LowestBreaksTiesByOrder) {
  EXPECT_EQ(lowest(std::vector<double>{0.5, 0.1, 0.5, 0.5}, 2), (std::vector<bool>{true, true, false, false}));
  EXPECT_EQ(below(std::vector<double>{0.5, 0.4}, 0.5), (std::vector<bool>{false, true}));
  EXPECT_EQ(not_above(std::vector<double>{0.998, 0.9981}, 0.998), (std::vector<bool>{true, false}));
}

/// 2 layers x 3 timesteps by hand. Relative L1 of the base e gives CosSim 1 - e^2/2 and
/// score (1 - e^2/2)(1 - e):           t=0            t=5            t=10
///   layer 0:   e .10 .20 .40  score .89550         .78400         .55200
///   layer 1:   e .30 .05 .60  score .66850         .94881         .32800
double by_hand(int layer, int timestep, int, std::size_t variant) {
  const double e[2][3] = {{0.10, 0.20, 0.40}, {0.30, 0.05, 0.60}};
  return variant == 0 ? e[layer][timestep / 5] : 0.01;
}

class PaperRule : public testing::Test {
 protected:
  test::Runs runs_{ToyRun().make(by_hand)};
  CellTable table_ = pool_cells(runs_, ids({"sage2-4b", "sage2-8b"}));
  Costs costs_ = modelled_costs(table_, test::toy_bits);

  std::vector<std::size_t> choose(const MapRequest& request) {
    return design_map(Designer(table_, costs_, request)).choice;
  }
};

using Choices = std::vector<std::size_t>;

TEST_F(PaperRule, TakesTheLowestScores) {
  const auto score = mean_over_samples(table_, evaluate(table_, paper_score)).column(0);
  const double expected[] = {0.8955, 0.784, 0.552, 0.6685, 0.9488125, 0.328};
  for (std::size_t c = 0; c < 6; ++c) EXPECT_NEAR(score[c], expected[c], 1e-14);
  EXPECT_EQ(choose({Rule::fraction, 0.0, {}, {}}), (Choices{0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(choose({Rule::fraction, 0.3, {}, {}}), (Choices{0, 0, 1, 0, 0, 1}));  // 1.8 of 6: two
  EXPECT_EQ(choose({Rule::fraction, 0.5, {}, {}}), (Choices{0, 0, 1, 1, 0, 1}));
  EXPECT_EQ(choose({Rule::fraction, 1.0, {}, {}}), (Choices{1, 1, 1, 1, 1, 1}));
}

TEST_F(PaperRule, Thresholds) {
  EXPECT_EQ(choose({Rule::min_score, 0.7839, {}, {}}), (Choices{0, 0, 1, 1, 0, 1}));
  // CosSim 1 - e^2/2 is above 0.998 only for e < 0.0632: the cell with 0.05.
  EXPECT_EQ(choose({Rule::cosine, 0.998, {}, {}}), (Choices{1, 1, 1, 1, 0, 1}));
}

TEST_F(PaperRule, PoolsLayersAndTimesteps) {
  // Means of scores: layers .7438, .6484; timesteps .7820, .8664, .4400.
  EXPECT_EQ(choose({Rule::fraction, 0.5, Pooling::layer, {}}), (Choices{0, 0, 0, 1, 1, 1}));
  EXPECT_EQ(choose({Rule::fraction, 0.3, Pooling::timestep, {}}), (Choices{0, 0, 1, 0, 0, 1}));
  EXPECT_EQ(choose({Rule::min_score, 0.8, Pooling::timestep, {}}), (Choices{1, 0, 1, 1, 0, 1}));
  EXPECT_EQ(choose({Rule::first_last, 1, {}, {}}), (Choices{1, 0, 1, 1, 0, 1}));
  EXPECT_EQ(choose({Rule::first_last, 2, {}, {}}), (Choices{1, 1, 1, 1, 1, 1}));
}

TEST_F(PaperRule, BudgetsBuyTheLargestSavings) {
  const double all = map_total(costs_.grid, Choices(6, 1));
  // 4-bit cells cost 3/4 of 8-bit ones: 5/6 of the whole pays for two cells in the fallback, 0.83 for only one.
  EXPECT_EQ(choose({Rule::max_cost, all * 5 / 6, {}, {}}), (Choices{0, 0, 1, 0, 0, 1}));
  EXPECT_EQ(choose({Rule::max_cost, all * 0.83, {}, {}}), (Choices{0, 0, 0, 0, 0, 1}));
  // As layers: layer 1 saves .92, layer 0 .67.
  EXPECT_EQ(choose({Rule::max_cost, all * 0.875, Pooling::layer, {}}), (Choices{0, 0, 0, 1, 1, 1}));
  // Mean 1.65/6 in the base; .11 is reached by moving .6, .4 and then either .3 (.06) or .2 (.0767) or .1 (.0933).
  const auto chosen = choose({Rule::max_error, 0.11, {}, {}});
  EXPECT_EQ(std::count(chosen.begin(), chosen.end(), 1U), 3);
  EXPECT_THROW((void)choose({Rule::max_cost, all * 0.7, {}, {}}), UsageError);
  EXPECT_THROW((void)choose({Rule::max_error, 0.009, {}, {}}), UsageError);
}

TEST_F(PaperRule, SummaryIsMeanAndWorstOverCells) {
  const CellMeans means(table_, Metric::rel_l1);
  const auto s = summarise(means, costs_.grid, {0, 0, 1, 0, 0, 1});
  EXPECT_NEAR(s.mean_rel_l1, (0.10 + 0.20 + 0.01 + 0.30 + 0.05 + 0.01) / 6, 1e-15);
  EXPECT_NEAR(s.worst_rel_l1, 0.30, 1e-15);
  EXPECT_NEAR(s.worst_cos_sim, 1 - 0.045, 1e-15);
  EXPECT_NEAR(s.other_share, 1.0 / 3, 1e-15);
  EXPECT_NEAR(s.speedup, 6 / (2 + 4 * 0.75), 1e-15);
}

}  // namespace
}  // namespace sage2
