#include "reports/sensitivity.hpp"

#include <gtest/gtest.h>

#include "datasets/error.hpp"
#include "tests/reports/toy_run.hpp"

namespace sage2 {
namespace {

/// Squared error of a row of the suite: the stages' own errors are 1, 2, 4, 8 and 16, everything together 40.
double squared(const std::string& label) {
  for (std::size_t s = 0; s < kStages.size(); ++s) {
    if (label == std::string("only ") + kStages[s]) return static_cast<double>(1U << s);
    if (label == std::string("without ") + kStages[s]) return 40.0 - static_cast<double>(2U << s);
  }
  return 40.0;
}

Run stages_run(int samples) {
  SuiteInfo suite{"stages", "Where the error of sage2-4b comes from", {{"all", "sage2-4b"}}};
  for (const char* how : {"only ", "without "}) {
    for (const char* stage : kStages) suite.rows.push_back({how + std::string(stage), how + std::string(stage)});
  }
  test::ToyRun toy;
  toy.samples = samples;
  toy.variants.clear();
  for (const auto& row : suite.rows) toy.variants.push_back(row.variant);
  auto run = toy.make([](int, int, int, std::size_t) { return 0.1; });
  // The second layer errs twice as much, the second sample three times.
  for (auto& r : run.records)
    r.sums.sq_err = squared(r.variant == "sage2-4b" ? "all" : r.variant) * (1 + r.layer) * (1 + 2 * r.sample);
  run.info.suites.push_back(suite);
  return run;
}

TEST(Sensitivity, SharesAndInteractionAddUpToOne) {
  const test::Runs runs{stages_run(2)};
  const auto stages = stage_sensitivity(runs, "sage2-4b");
  ASSERT_TRUE(stages);
  EXPECT_EQ(stages->variant, "sage2-4b");
  ASSERT_EQ(stages->cells.size(), 6U);
  const auto& e = stages->cells[5].errors;
  EXPECT_DOUBLE_EQ(e.all, 40 * 2 * (1 + 3));
  double sum = e.interaction();
  for (std::size_t s = 0; s < kStages.size(); ++s) {
    EXPECT_DOUBLE_EQ(e.share(s), static_cast<double>(1U << s) / 40);
    EXPECT_DOUBLE_EQ(e.saved(s), static_cast<double>(2U << s) / 40);
    sum += e.share(s);
  }
  EXPECT_DOUBLE_EQ(e.interaction(), 9.0 / 40);
  EXPECT_DOUBLE_EQ(sum, 1);
}

TEST(Sensitivity, TableHasALineALayer) {
  const test::Runs runs{stages_run(1)};
  const auto table = sensitivity_table(*stage_sensitivity(runs, "sage2-4b"));
  ASSERT_EQ(table.rows.size(), 2U);
  // 1, 2, 4, 8, 16 of 40, and twice that saved; 9 of 40 are interaction. Halves go up.
  EXPECT_EQ(table.rows[1], (std::vector<std::string>{"1", "3/5", "5/10", "10/20", "20/40", "40/80", "23"}));
}

TEST(Sensitivity, NeedsTheWholeSuite) {
  test::ToyRun toy;
  const test::Runs none{toy.make([](int, int, int, std::size_t) { return 0.1; })};
  EXPECT_FALSE(stage_sensitivity(none, "sage2-4b"));
  test::Runs runs{stages_run(1)};
  runs[0].records.pop_back();
  EXPECT_THROW((void)stage_sensitivity(runs, "sage2-4b"), DataError);
  runs[0].info.suites[0].rows.pop_back();
  EXPECT_THROW((void)stage_sensitivity(runs, "sage2-4b"), DataError);
}

}  // namespace
}  // namespace sage2
