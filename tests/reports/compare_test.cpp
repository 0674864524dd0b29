#include "reports/compare.hpp"

#include <cmath>
#include <limits>
#include <sstream>

#include "datasets/error.hpp"
#include "gtest/gtest.h"
#include "reports/student_t.hpp"
#include "tests/reports/synthetic.hpp"

namespace sage2 {
namespace {

using test::make_record;

Report report_of(const std::vector<Record>& records) {
  Report report;
  report.models = collect_cells(records);
  for (const auto& model : report.models) {
    for (const auto& v : model.variants) report.variants.push_back({v.name, v.variant});
  }
  return report;
}

/// Samples of one cell with these relative L1 errors.
std::vector<Record> samples_of(const std::vector<double>& errors, int layer = 0) {
  std::vector<Record> records;
  for (std::size_t i = 0; i < errors.size(); ++i) {
    records.push_back(make_record("v", layer, 0, static_cast<int>(i), 0.99, errors[i]));
  }
  return records;
}

Comparison compare(const std::vector<Record>& a, const std::vector<Record>& b) {
  return compare_reports(report_of(a), report_of(b), {});
}

// SciPy 1.10, stats.t.ppf((1 + p) / 2, v), whose inverse is itself good to 1e-9 only.
TEST(StudentT, AgreesWithSciPy) {
  const double cases[][3] = {{0.95, 5, 2.5705818366147395},
                             {0.95, 29, 2.045229642132703},
                             {0.99, 1000, 2.580754698065942},
                             {0.5, 3, 0.764892328080891}};
  for (const auto& [p, v, t] : cases) EXPECT_NEAR(student_t_quantile(p, v) / t, 1, 1e-9) << p << ' ' << v;
}

// Closed forms for one and two degrees of freedom; lgamma and the continued fraction leave a few units of 1e-15.
TEST(StudentT, AgreesWithClosedForms) {
  for (const double p : {0.1, 0.5, 0.95, 0.999}) {
    EXPECT_NEAR(student_t_quantile(p, 1) / std::tan(std::acos(-1.0) * p / 2), 1, 1e-11) << p;
    EXPECT_NEAR(student_t_quantile(p, 2) / (p * std::sqrt(2 / (1 - p * p))), 1, 1e-11) << p;
  }
}

TEST(StudentT, IntervalOfAMean) {
  const auto i = mean_interval({0.1, 0.4, 0.2, 0.35}, 0.95);
  EXPECT_NEAR(i.mean, 0.2625, 1e-15);
  EXPECT_NEAR(i.low, 0.043405655758711414, 1e-9);
  EXPECT_NEAR(i.high, 0.4815943442412885, 1e-9);
  EXPECT_EQ(mean_interval({0.25, 0.25, 0.25}, 0.95).high, 0.25);
  EXPECT_EQ(mean_interval({0.25}, 0.95).high, std::numeric_limits<double>::infinity());
}

TEST(Compare, ARunAgainstItselfIsTheSame) {
  const auto c = compare(test::small_grid(), test::small_grid());
  ASSERT_EQ(c.variants.size(), 2U);
  for (const auto& v : c.variants) {
    EXPECT_EQ(v.verdict, Verdict::same);
    EXPECT_EQ(v.same, 6U);
    EXPECT_EQ(v.change, 0);
  }
  EXPECT_FALSE(c.any_worse());
}

TEST(Compare, JudgesByTheSpreadOverSamples) {
  const std::vector<double> before{0.10, 0.11, 0.12, 0.10};
  // Every sample worse by about 20%: sure. Mean change 0.02, the differences scatter by about 0.002.
  EXPECT_EQ(compare(samples_of(before), samples_of({0.12, 0.131, 0.141, 0.118})).cells[0].verdict, Verdict::worse);
  EXPECT_EQ(compare(samples_of({0.12, 0.131, 0.141, 0.118}), samples_of(before)).cells[0].verdict, Verdict::better);
  // The same mean change, but half of the samples got better.
  const auto mixed = compare(samples_of(before), samples_of({0.20, 0.05, 0.22, 0.04})).cells[0];
  EXPECT_EQ(mixed.verdict, Verdict::uncertain);
  EXPECT_EQ(mixed.spread, SpreadOver::samples);
  EXPECT_EQ(mixed.values, 4U);
  // A change below the tolerance of 1%.
  EXPECT_EQ(compare(samples_of(before), samples_of({0.1001, 0.1101, 0.1201, 0.1001})).cells[0].verdict, Verdict::same);
}

// One sample with heads that lie 10% below and above it: differences 0.018 and 0.022, interval by t with one degree of
// freedom 0.02 -+ 12.7 * 0.002 = [-0.005, 0.045], which reaches below the zone of +-0.001.
TEST(Compare, TakesHeadsWhereThereIsOneSample) {
  const auto c = compare(samples_of({0.1}), samples_of({0.12})).cells.at(0);
  EXPECT_EQ(c.spread, SpreadOver::heads);
  EXPECT_EQ(c.verdict, Verdict::uncertain);
  EXPECT_NEAR(c.low, 0.02 - 12.706204736174698 * 0.002, 1e-12);
  auto before = make_record("v", 0, 0, 0, 0.99, 0.1, 24);
  auto after = make_record("v", 0, 0, 0, 0.99, 0.12, 24);
  EXPECT_EQ(compare({before}, {after}).cells[0].verdict, Verdict::worse);
}

TEST(Compare, NaNIsWorse) {
  auto broken = samples_of({0.1, 0.11, 0.12});
  broken[1].sums.abs_err = std::numeric_limits<double>::quiet_NaN();
  broken[1].metrics.rel_l1 = broken[1].sums.abs_err;
  const auto c = compare(samples_of({0.1, 0.11, 0.12}), broken);
  EXPECT_EQ(c.cells[0].verdict, Verdict::worse);
  EXPECT_TRUE(c.any_worse());
  EXPECT_EQ(compare(broken, samples_of({0.1, 0.11, 0.12})).cells[0].verdict, Verdict::better);
}

TEST(Compare, LeavesOutWhatIsNotComparable) {
  auto a = samples_of({0.1, 0.11});
  auto b = samples_of({0.1, 0.11, 0.12});
  auto c = compare(a, b);
  EXPECT_EQ(c.only_b, 1U);
  b[0].sums.ref_ref *= 1.5;  // another reference: other tensors under the same name
  c = compare(a, b);
  EXPECT_EQ(c.different_inputs, 1U);
  EXPECT_EQ(c.cells[0].values, 2U) << "the remaining sample's heads";
  b[1].sums.ref_ref *= 1.5;
  EXPECT_THROW((void)compare(a, b), DataError);
  a[0].model = a[1].model = "another";
  EXPECT_THROW((void)compare(a, samples_of({0.1, 0.11})), DataError);
}

TEST(Compare, ListsTheWorstMoversFirst) {
  auto a = samples_of({0.1, 0.11, 0.12}, 0);
  auto b = samples_of({0.15, 0.16, 0.17}, 0);
  for (auto& r : samples_of({0.1, 0.11, 0.12}, 1)) a.push_back(r);
  for (auto& r : samples_of({0.2, 0.21, 0.22}, 1)) b.push_back(r);
  const auto c = compare(a, b);
  const auto movers = movers_table(c, 1);
  ASSERT_EQ(movers.rows.size(), 1U);
  EXPECT_EQ(movers.rows[0][1], "L1");
  EXPECT_EQ(movers.rows[0][5], "worse");
  EXPECT_EQ(comparison_summary(c)[0], "Of 2 cells B is worse in 2, better in 0, the same in 0, uncertain in 0.");
}

TEST(Compare, TablesFitATerminal) {
  auto a = samples_of({0.1, 0.11, 0.12}, 127);
  auto b = samples_of({0.9, 0.91, 0.92}, 127);
  for (auto* records : {&a, &b}) {
    for (auto& r : *records) {
      r.name = r.variant = "sage2-4b:qk_gran=per_warp,smooth_v=on,pv_accum=fp32+fp16";
      r.layer_name = "transformer_blocks.127.attention.processor";
    }
  }
  const auto c = compare(a, b);
  std::istringstream in(to_text(comparison_table(c)) + to_text(movers_table(c, 5)));
  for (std::string line; std::getline(in, line);) EXPECT_LE(line.size(), 80U) << line;
}

}  // namespace
}  // namespace sage2
