#include "reports/summary.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "datasets/error.hpp"
#include "gtest/gtest.h"
#include "tests/reports/synthetic.hpp"

namespace sage2 {
namespace {

using test::make_record;

std::vector<Record> two_layers() {
  return {make_record("a", 0, 0, 0, 0.99, 0.1), make_record("a", 1, 0, 0, 0.95, 0.3),
          make_record("b", 0, 0, 0, 0.90, 0.2), make_record("b", 1, 0, 0, 0.97, 0.1)};
}

// Closed form: means of two numbers; the tolerance covers one rounding of each sum.
TEST(Summary, AveragesAndNamesTheWorstCell) {
  const auto rows = summarise(two_layers(), {{"A", "a"}, {"B", "b"}});
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_NEAR(rows[0].average.cos_sim, 0.97, 1e-15);
  EXPECT_NEAR(rows[0].average.rel_l1, 0.2, 1e-15);
  EXPECT_NEAR(rows[0].worst.cos_sim, 0.95, 1e-15);
  EXPECT_EQ(rows[0].worst_cell, "layer 1 (blocks.1.attn)");
  EXPECT_EQ(rows[1].worst_cell_short, "L0");
  EXPECT_EQ(rows[0].counts.p_total, 2000U);
}

// Two samples of one cell are pooled by sums before they are averaged with other cells: rmse is the root of the mean
// square, not the mean of roots.
TEST(Summary, PoolsSamplesOfACell) {
  auto first = make_record("a", 0, 3, 0, 1 - 0.02, 0.1);
  auto second = make_record("a", 0, 3, 1, 1 - 0.08, 0.3);
  const auto cells = collect_cells({first, second}).at(0).variants.at(0).cells;
  ASSERT_EQ(cells.size(), 1U);
  EXPECT_NEAR(cells[0].metrics.rmse, std::sqrt((0.04 + 0.16) / 2), 1e-15);
  EXPECT_NEAR(cells[0].metrics.cos_sim, 0.95, 1e-15);
  EXPECT_NEAR(cells[0].metrics.rel_l1, 0.2, 1e-15);
  EXPECT_NEAR(cells[0].metrics.max_abs, 1.2, 1e-15);
  ASSERT_EQ(cells[0].heads.size(), 2U);
  EXPECT_NEAR(cells[0].heads[1].metrics.rel_l1, 0.22, 1e-15);
}

TEST(Summary, DoesNotDependOnTheOrderOfRecords) {
  auto records = two_layers();
  for (int sample = 1; sample < 4; ++sample)
    records.push_back(make_record("a", 0, 0, sample, 0.9 + 0.01 * sample, 0.1));
  const auto forward = summarise(records, {{"A", "a"}});
  std::reverse(records.begin(), records.end());
  const auto backward = summarise(records, {{"A", "a"}});
  EXPECT_EQ(forward[0].average.cos_sim, backward[0].average.cos_sim);
  EXPECT_EQ(forward[0].average.rmse, backward[0].average.rmse);
}

TEST(Summary, CountsARecordOnce) {
  auto records = two_layers();
  records.push_back(records.front());
  CellCollector collector;
  for (const auto& r : records) collector.add(Record(r));
  EXPECT_EQ(collector.duplicates(), 1U);
  EXPECT_EQ(collector.finish().at(0).find("a")->cells.at(0).samples.size(), 1U);
}

TEST(Summary, NaNIsTheWorstAndLeavesNoAverage) {
  auto records = two_layers();
  records[0].sums.ref_out = std::numeric_limits<double>::quiet_NaN();
  records[0].counts.nan = 5;
  const auto rows = summarise(records, {{"A", "a"}, {"B", "b"}});
  EXPECT_TRUE(std::isnan(rows[0].average.cos_sim));
  EXPECT_EQ(rows[0].worst_cell_short, "L0");
  EXPECT_EQ(rows[0].nonfinite_cells, 1U);
  const auto table = summary_table("t", rows);
  EXPECT_NE(to_text(table).find("A: NaN or infinity in 1 of 2 cells"), std::string::npos);
  EXPECT_EQ(table.marked.size(), 4U) << "b is the only number of the CosSim columns, both rows have RelL1, RMSE";
}

TEST(Summary, RefusesToAverageOverModels) {
  auto records = two_layers();
  records[1].model = "another";
  EXPECT_THROW((void)summarise(records, {{"A", "a"}}), DataError);
  EXPECT_EQ(collect_cells(records).size(), 2U);
}

TEST(Summary, TableFitsATerminalAndMarksTheBest) {
  auto rows = summarise(two_layers(), {{"A", "a"}, {"a label that is much longer than any terminal would like", "b"}});
  for (auto& r : rows) {
    r.worst.cos_sim = -0.99999;
    r.worst_cell_short = "L127 T999";
  }
  const auto text = to_text(summary_table("Smoothing", rows));
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    EXPECT_TRUE(line.size() <= 80 || line.find(" = ") != std::string::npos) << line;
  }
  EXPECT_NE(text.find("97.00*"), std::string::npos) << text;
}

TEST(Table, PrintsGroupsAndMarksInEveryFormat) {
  Table t{"Title", {{"Method"}, {"CosSim%", Align::right, "average"}, {"L1", Align::right, "average"}}, {}, {"note"}};
  t.rows = {{"a_b", "99.10", "0.1"}, {"c|d", "98.00", "0.2"}};
  mark_best(t, 1, Better::higher);
  mark_best(t, 2, Better::lower);
  EXPECT_EQ(to_text(t),
            "Title\n"
            "        - average --\n"
            "Method  CosSim%   L1\n"
            "------  -------  ---\n"
            "a_b       99.10* 0.1*\n"
            "c|d       98.00  0.2\n"
            "note\n");
  EXPECT_EQ(to_markdown(t),
            "### Title\n\n"
            "| Method | average CosSim% | average L1 |\n"
            "| --- | ---: | ---: |\n"
            "| a_b | **99.10** | **0.1** |\n"
            "| c\\|d | 98.00 | 0.2 |\n"
            "\nnote\n");
  EXPECT_EQ(to_csv(t), "Method,average CosSim%,average L1\na_b,99.10,0.1\nc|d,98.00,0.2\n");
  EXPECT_EQ(to_latex(t),
            "% Title\n% note\n% \\usepackage{booktabs}\n"
            "\\begin{tabular}{@{}lrr@{}}\n\\toprule\n"
            " & \\multicolumn{2}{c}{average} \\\\\n\\cmidrule(lr){2-3}\n"
            "Method & CosSim\\% & L1 \\\\\n\\midrule\n"
            "a\\_b & \\textbf{99.10} & \\textbf{0.1} \\\\\n"
            "c\\textbar{}d & 98.00 & 0.2 \\\\\n"
            "\\bottomrule\n\\end{tabular}\n");
}

}  // namespace
}  // namespace sage2
