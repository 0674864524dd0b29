#include "reports/rank.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "datasets/error.hpp"
#include "reports/rank_json.hpp"
#include "reports/rank_text.hpp"
#include "tests/reports/toy_run.hpp"

namespace sage2 {
namespace {

using test::ids;
using test::ToyRun;

const std::vector<std::string> kBoth{"sage2-4b", "sage2-8b"};

/// A deterministic "random" number in [0, 1).
double noise(int a, int b, int c) {
  const double x = std::sin(12.9898 * a + 78.233 * b + 37.719 * c) * 43758.5453;
  return x - std::floor(x);
}

/// Cells differ a lot, samples a little.
double steady(int layer, int timestep, int sample, std::size_t variant) {
  const double cell = 0.02 + 0.3 * noise(layer, timestep, 0);
  return cell * (1 + 0.02 * noise(layer, timestep, 1 + sample)) / (variant == 0 ? 1.0 : 8.0);
}

/// Samples differ far more than cells.
double shaky(int layer, int timestep, int sample, std::size_t variant) {
  return (0.1 + 0.3 * noise(layer, timestep, 1 + sample)) / (variant == 0 ? 1.0 : 8.0);
}

struct Ranked {
  Ranked(const ToyRun& toy, const test::ToyError& error, const MapRequest& what = {})
      : runs{toy.make(error)},
        table(pool_cells(runs, ids(toy.variants))),
        costs(modelled_costs(table, test::toy_bits)),
        request{what, {300, 1}} {}
  [[nodiscard]] RankResult rank() const { return rank_cells(table, costs, request); }

  test::Runs runs;
  CellTable table;
  Costs costs;
  RankRequest request;
};

ToyRun grid(int samples) {
  ToyRun toy;
  toy.layers = {0, 1, 2, 3, 4, 5};
  toy.timesteps = {0, 6, 12, 18, 24};
  toy.samples = samples;
  return toy;
}

bool warns(const Bootstrap& b, const std::string& of) {
  return std::any_of(b.warnings.begin(), b.warnings.end(),
                     [&](const auto& w) { return w.find(of) != std::string::npos; });
}

TEST(Bootstrap, IsTheSameForTheSameSeed) {
  const Ranked r(grid(6), shaky);
  const auto a = r.rank().stability;
  const auto b = r.rank().stability;
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.agreement, b.agreement);
  EXPECT_EQ(a.tau_mean, b.tau_mean);
  auto other = r;
  other.request.bootstrap.seed = 2;
  EXPECT_NE(rank_cells(other.table, other.costs, other.request).stability.tau_mean, a.tau_mean);
}

TEST(Bootstrap, IntervalAgreesWithTheNormalOne) {
  // The percentile interval of a mean of n values is mean -+ 1.96 s / sqrt(n), s the deviation with divisor n. With
  // 300 replicates its half width scatters by 1.96 sqrt(1 / 600) = 8 %, and 40 values are near enough to normal.
  ToyRun toy;
  toy.samples = 40;
  Ranked r(toy, shaky);
  r.request.bootstrap.replicates = 2000;
  const auto b = r.rank().stability;
  for (std::size_t c = 0; c < r.table.cells.size(); ++c) {
    double mean = 0;
    double square = 0;
    for (std::size_t s = 0; s < 40; ++s) mean += paper_score(r.table.at(c, s, 0)) / 40;
    for (std::size_t s = 0; s < 40; ++s) square += std::pow(paper_score(r.table.at(c, s, 0)) - mean, 2) / 40;
    const double half = 1.96 * std::sqrt(square / 40);
    EXPECT_NEAR(b.high[c] - b.low[c], 2 * half, 0.15 * 2 * half);
    EXPECT_LT(b.low[c], mean);
    EXPECT_GT(b.high[c], mean);
  }
}

TEST(Bootstrap, SaysWhatIsNotToBeTrusted) {
  const auto one = Ranked(grid(1), steady).rank().stability;
  EXPECT_EQ(one.replicates, 0U);
  EXPECT_TRUE(warns(one, "one sample only"));
  const auto few = Ranked(grid(3), steady).rank().stability;
  EXPECT_TRUE(warns(few, "only 3 independent samples"));
  const auto good = Ranked(grid(8), steady).rank().stability;
  EXPECT_GT(good.tau_mean, 0.95);
  EXPECT_FALSE(warns(good, "independent samples"));
  EXPECT_FALSE(warns(good, "Kendall"));
  const auto bad = Ranked(grid(8), shaky).rank().stability;
  EXPECT_LT(bad.tau_mean, 0.8);
  EXPECT_TRUE(warns(bad, "the ranking changes with the samples"));
  EXPECT_TRUE(warns(bad, "get another variant"));
}

TEST(Holdout, SplitsDrawsWithoutOverlap) {
  const Ranked r(grid(8), steady);
  const auto [made, unseen] = split_units(r.table, 0.25, 3);
  EXPECT_EQ(made.units, 6U);
  EXPECT_EQ(unseen.units, 2U);
  EXPECT_EQ(made.cells[0].samples() + unseen.cells[0].samples(), 8U);
  for (const auto& a : made.cells[0].observations) {
    for (const auto& b : unseen.cells[0].observations) EXPECT_NE(a.rel_l1, b.rel_l1);
  }
  const auto again = split_units(r.table, 0.25, 3).second;
  EXPECT_EQ(again.cells[0].observations[0].rel_l1, unseen.cells[0].observations[0].rel_l1);
  EXPECT_THROW((void)split_units(r.table, 0.0, 0), UsageError);
  EXPECT_THROW((void)split_units(r.table, 1.5, 0), UsageError);
  EXPECT_THROW((void)split_units(Ranked(grid(1), steady).table, 0.5, 0), DataError);
}

TEST(Holdout, BracketsTheMapBetweenOracleAndRandom) {
  const Ranked r(grid(8), steady);
  const auto [made, unseen] = split_units(r.table, 0.5, 0);
  const auto result = rank_cells(made, r.costs, r.request, &unseen);
  const auto& rows = result.holdout->rows;
  ASSERT_EQ(rows.size(), 5U);
  const double map = rows[0].summary.mean_error;
  const double oracle = rows[1].summary.mean_error;
  const double random = rows[2].summary.mean_error;
  EXPECT_LE(oracle, map);
  EXPECT_LT(map, random);
  EXPECT_LT(random, rows[3].summary.mean_error);  // all base
  EXPECT_GT(oracle, rows[4].summary.mean_error);  // all fallback
  EXPECT_DOUBLE_EQ(rows[0].regret, map - oracle);
  EXPECT_EQ(rows[1].regret, 0);
  // A random map of the same share errs like the mix of both extremes; 400 maps of 30 cells scatter by this much.
  const double share = rows[0].summary.other_share;
  const double mix = (1 - share) * rows[3].summary.mean_error + share * rows[4].summary.mean_error;
  EXPECT_NEAR(random, mix, 0.02 * mix);
  EXPECT_LE(result.holdout->random_low, random);
  EXPECT_GE(result.holdout->random_high, random);
  EXPECT_NEAR(rows[2].summary.other_share, share, 1e-12);
}

TEST(Holdout, AlignsAnotherRunAndKnowsWhatItHasSeen) {
  ToyRun toy = grid(2);
  const Ranked r(toy, steady);
  ToyRun later = toy;
  later.first_sample = 2;
  const test::Runs fresh{later.make(steady)};
  EXPECT_EQ(shared_records(r.runs, fresh, ids(kBoth)), 0U);
  EXPECT_EQ(shared_records(r.runs, r.runs, ids(kBoth)), r.runs[0].records.size());
  EXPECT_EQ(align_cells(r.table, pool_cells(fresh, ids(kBoth))).cells.size(), 30U);
  later.layers.pop_back();
  const test::Runs partial{later.make(steady)};
  EXPECT_THROW((void)align_cells(r.table, pool_cells(partial, ids(kBoth))), DataError);
}

TEST(Curve, FallsAndIsBoundedByTheExactOne) {
  const Ranked r(grid(4), steady);
  const auto curve = r.rank().curve;
  ASSERT_EQ(curve.points.size(), 31U);
  EXPECT_TRUE(curve.falls);
  EXPECT_TRUE(curve.smooth);
  EXPECT_TRUE(curve.findings.empty());
  const CellMeans means(r.table, Metric::rel_l1);
  for (std::size_t k = 0; k < curve.points.size(); ++k) {
    const auto& p = curve.points[k];
    EXPECT_LE(p.exact, p.paper + 1e-13);
    EXPECT_LE(p.paper, p.random + 1e-13);
    if (k > 0) {
      EXPECT_LT(p.paper, curve.points[k - 1].paper);
    }
    // With equal costs the exact curve is what the knapsack finds for k cells.
    const auto items = budget_items(group_cells(r.table, Pooling::cell), r.costs.grid, means.error);
    const double cost = map_total(r.costs.grid, std::vector<std::size_t>(30, 0)) +
                        static_cast<double>(k) * (r.costs.grid.at(0, 1) - r.costs.grid.at(0, 0));
    EXPECT_NEAR(least_error(items, cost)->error / 30, p.exact, 1e-14);
  }
}

TEST(Curve, FindsCellsInWhichTheFallbackIsWorse) {
  const auto worse = [](int layer, int timestep, int sample, std::size_t variant) {
    if (layer == 2 && timestep == 12) return variant == 0 ? 0.1 : 0.2;
    return steady(layer, timestep, sample, variant);
  };
  const auto curve = Ranked(grid(1), worse).rank().curve;
  EXPECT_FALSE(curve.falls);
  ASSERT_FALSE(curve.findings.empty());
  EXPECT_NE(curve.findings[0].find("in 1 of 30 the fallback is worse than the base, most in layer 2, timestep 12"),
            std::string::npos);
}

TEST(Curve, FindsCellsThatTheScoreRanksTooHigh) {
  // The fallback helps nowhere but in the cell with the best score.
  const auto odd = [](int layer, int timestep, int, std::size_t variant) {
    if (layer == 5 && timestep == 24) return variant == 0 ? 0.05 : 0.001;
    return 0.1 + 0.01 * layer + 0.0001 * timestep - (variant == 0 ? 0.0 : 0.001);
  };
  const auto curve = Ranked(grid(1), odd).rank().curve;
  EXPECT_TRUE(curve.falls);
  EXPECT_FALSE(curve.smooth);
  ASSERT_FALSE(curve.findings.empty());
  EXPECT_NE(curve.findings[0].find("layer 5, timestep 24 comes 30 by score"), std::string::npos);
}

TEST(Rank, PredictionIsTheMeanOverCellsOfWhatTheyRun) {
  const Ranked r(grid(3), steady);
  const auto result = r.rank();
  double sum = 0;
  for (std::size_t c = 0; c < 30; ++c) {
    for (std::size_t s = 0; s < 3; ++s) sum += r.table.at(c, s, result.design.choice[c]).rel_l1 / 3 / 30;
  }
  EXPECT_NEAR(result.map.mean_rel_l1, sum, 1e-15);
  EXPECT_EQ(std::count(result.design.choice.begin(), result.design.choice.end(), 1U), 9);
  const auto map = to_map(result);
  EXPECT_EQ(map.predicted["mean_rel_l1"], result.map.mean_rel_l1);
  EXPECT_EQ(std::count_if(map.cells.begin(), map.cells.end(), [](const auto& c) { return c.variant == "sage2-8b"; }),
            9);
}

TEST(Rank, TextFitsATerminalAndExplainsEveryCell) {
  ToyRun toy = grid(6);
  toy.variants = {"sage2-4b", "sage2-8b", "sage1", "fp16"};
  const auto error = [](int l, int t, int s, std::size_t v) { return steady(l, t, s, 0) / (1.0 + 5.0 * double(v)); };
  std::vector<MapRequest> requests{{Rule::max_cost, 2e-5, Pooling::cell, Metric::sq_err},
                                   {Rule::max_error, 0.02, Pooling::layer, Metric::rel_l1}};
  toy.variants.resize(2);
  for (const Rule rule : {Rule::fraction, Rule::min_score, Rule::cosine, Rule::first_last}) {
    requests.push_back({rule, rule == Rule::first_last ? 1.0 : 0.5, Pooling::cell, Metric::rel_l1});
  }
  for (std::size_t i = 0; i < requests.size(); ++i) {
    if (i < 2) toy.variants = {"sage2-4b", "sage2-8b", "sage1", "fp16"};
    if (i == 2) toy.variants = kBoth;
    Ranked r(toy, error);
    if (requests[i].rule == Rule::max_cost) {
      requests[i].value = 1.1 * map_total(r.costs.grid, std::vector<std::size_t>(30, 1));
    }
    r.request.map = requests[i];
    const auto [made, unseen] = split_units(r.table, 0.5, 0);
    const auto result = rank_cells(made, r.costs, r.request, &unseen);
    std::string all = rank_text(result, {false, 10});
    for (const auto& cell : made.cells) all += explain_text(result, cell.layer, cell.timestep);
    EXPECT_THROW((void)explain_text(result, 9, 0), UsageError);
    std::size_t begin = 0;
    while (begin < all.size()) {
      const auto end = all.find('\n', begin);
      const auto line = all.substr(begin, end - begin);
      EXPECT_LE(line.size(), 80U) << line;
      EXPECT_EQ(line.find("nan"), std::string::npos) << line;
      begin = end + 1;
    }
    const auto j = rank_json(result);
    EXPECT_EQ(j["cells"].size(), 30U);
    EXPECT_EQ(j.contains("budget"), i < 2);
    EXPECT_EQ(nlohmann::json::parse(j.dump()), j);
  }
}

}  // namespace
}  // namespace sage2
