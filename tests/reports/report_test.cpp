#include "reports/report.hpp"

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "datasets/error.hpp"
#include "gtest/gtest.h"
#include "reports/detail_tables.hpp"
#include "reports/html_page.hpp"
#include "reports/plot_data.hpp"
#include "reports/report_document.hpp"
#include "reports/stages.hpp"
#include "tests/reports/synthetic.hpp"

namespace sage2 {
namespace {

using test::make_record;

class ReportTest : public testing::Test {
 protected:
  test::TemporaryFolder folder_;
  RunInfo info_ = test::make_info({{"Hadamard", "a"}, {"none", "b"}});

  std::filesystem::path run(const std::string& name, const std::vector<Record>& records) {
    return test::write_run(folder_.path() / name, info_, records);
  }
  static std::string everything(const Report& report) {
    return report_markdown(report, {}) + report_latex(report) + report_json(report).dump() + html_page(report) +
           plot_data(report).dump() + cells_csv(report, report.models.at(0));
  }
  /// What loading says when it fails.
  template <class Expected>
  static std::string failure(const std::vector<std::filesystem::path>& folders, const ReportSelection& selection = {}) {
    try {
      (void)load_report(folders, selection);
    } catch (const Expected& e) {
      return e.what();
    }
    return "no failure";
  }
};

TEST_F(ReportTest, IsTheSameToTheLastByteWhateverTheOrderOfRecords) {
  auto records = test::small_grid(3);
  const auto forward = load_report({run("forward", records)}, {});
  std::reverse(records.begin(), records.end());
  const auto backward = load_report({run("backward", records)}, {});
  EXPECT_EQ(everything(forward), everything(backward));
}

TEST_F(ReportTest, MakesOneTableForEachModel) {
  auto records = test::small_grid();
  for (auto r : test::small_grid()) {
    r.model = "another <model>";
    r.capture = "another.h5";
    records.push_back(std::move(r));
  }
  const auto report = load_report({run("run", records)}, {});
  ASSERT_EQ(report.models.size(), 2U);
  std::vector<std::string> names;
  for (const auto& placed : report_tables(report)) names.push_back(placed.table.name);
  EXPECT_EQ(std::count(names.begin(), names.end(), "toy-smoothing"), 1);
  EXPECT_EQ(std::count(names.begin(), names.end(), "another-smoothing"), 1);
  EXPECT_EQ(extent_of(report.models[0]), "6 cells (3 layers, 2 timesteps), 1 sample each");
}

TEST_F(ReportTest, CountsRecordsOfTwoRunsOnce) {
  const auto first = run("first", test::small_grid());
  const auto report = load_report({first, first}, {});
  EXPECT_EQ(report.models.at(0).find("a")->cells.at(0).samples.size(), 1U);
  ASSERT_EQ(report.remarks.size(), 1U);
  EXPECT_EQ(report.suites.size(), 1U);
}

TEST_F(ReportTest, RefusesTwoCapturesOfOneName) {
  const auto first = run("first", test::small_grid());
  info_.captures[0].fingerprint = "beef";
  const auto second = run("second", test::small_grid());
  const auto what = failure<DataError>({first, second});
  EXPECT_NE(what.find("two different captures called toy.h5"), std::string::npos) << what;
}

TEST_F(ReportTest, SaysWhatIsMissing) {
  const auto empty = failure<DataError>({run("empty", {})});
  EXPECT_NE(empty.find("empty: holds no records"), std::string::npos) << empty;
  const auto grid = run("grid", test::small_grid());
  const auto layers = failure<UsageError>({grid}, {{}, [](int layer) { return layer == 9; }});
  EXPECT_NE(layers.find("none of the layers 0 to 2"), std::string::npos) << layers;
  const auto variant = failure<UsageError>({grid}, {{"c"}, {}});
  EXPECT_NE(variant.find("no records of a variant \"c\"; there are a, b"), std::string::npos) << variant;
}

TEST_F(ReportTest, RemarksACutOffLine) {
  const auto folder = run("run", test::small_grid());
  const auto text = test::read_text(folder / "records.jsonl");
  test::write_text(folder / "records.jsonl", text.substr(0, text.size() - 1));
  const auto report = load_report({folder}, {});
  ASSERT_EQ(report.remarks.size(), 1U);
  EXPECT_NE(report.remarks[0].find("cut off"), std::string::npos);
  EXPECT_NE(report_markdown(report, {}).find("cut off"), std::string::npos);
}

TEST_F(ReportTest, SelectsVariantsByLabelAndLayers) {
  const auto report = load_report({run("run", test::small_grid())}, {{"none"}, [](int layer) { return layer > 0; }});
  ASSERT_EQ(report.models.at(0).variants.size(), 1U);
  EXPECT_EQ(report.models[0].variants[0].variant, "b");
  EXPECT_EQ(report.models[0].variants[0].cells.size(), 4U);
  ASSERT_EQ(report.suites.size(), 1U);
  EXPECT_EQ(report.suites[0].rows.size(), 1U);
}

// The published figures stand beside one's own by label, and say whose they are.
TEST_F(ReportTest, PutsPublishedFiguresBeside) {
  auto report = load_report({run("run", test::small_grid())}, {});
  EXPECT_EQ(suite_tables(report, report.models[0])[0].printed.columns.size(), 8U);
  report.published = true;
  const auto t = suite_tables(report, report.models[0]).at(0).printed;
  ASSERT_EQ(t.columns.size(), 14U);
  EXPECT_EQ(t.columns[8].group, "average of CogVideoX (published)");
  ASSERT_EQ(t.rows[0][0], "Hadamard");
  EXPECT_EQ(t.rows[0][8], "79.77");
  EXPECT_EQ(t.rows[1][11], "4.83");
  EXPECT_NE(to_latex(t).find("another model's"), std::string::npos);
}

// Sum of squares by hand: only q has a quarter, only k half of the whole; a quarter is left.
TEST(Stages, SharesAddUpToTheWhole) {
  const SuiteInfo suite{"stages", "Where", {{"all", "all"}, {"only q", "q"}, {"only k", "k"}, {"without q", "k"}}};
  std::vector<Record> records;
  for (const int layer : {0, 1}) {
    records.push_back(make_record("all", layer, 0, 0, 1 - 0.04, 0.1));
    records.push_back(make_record("q", layer, 0, 0, 1 - 0.01, 0.1));
    records.push_back(make_record("k", layer, 0, 0, 1 - 0.02, 0.1));
  }
  const auto a = analyse_stages(collect_cells(records).at(0), suite);
  ASSERT_TRUE(a.has_value());
  ASSERT_EQ(a->stages, (std::vector<std::string>{"q", "k"}));
  // 2 - 2 cos_sim loses two digits of the sixteen.
  EXPECT_NEAR(a->whole.shares[0], 0.25, 1e-13);
  EXPECT_NEAR(a->whole.shares[1], 0.5, 1e-13);
  EXPECT_NEAR(a->whole.interaction, 0.25, 1e-13);
  EXPECT_EQ(a->layers.size(), 2U);
}

// Four cells whose base errors are 4, 3, 2, 1 percent and whose fallback errors are all 1 in a thousand: means by hand.
TEST(Pareto, TakesTheWorstCellsFirst) {
  std::vector<Record> records;
  for (const int layer : {0, 1, 2, 3}) {
    auto base = make_record("sage2-4b", layer, 0, 0, 0.99, 0.04 - 0.01 * layer);
    auto fallback = make_record("sage2-8b", layer, 0, 0, 0.9999, 0.001);
    records.push_back(base);
    records.push_back(fallback);
  }
  const auto model = collect_cells(records).at(0);
  const auto pair = base_pair(model, std::nullopt);
  ASSERT_TRUE(pair.has_value());
  std::vector<BenchEntry> bench;
  for (const auto& [variant, ms] : {std::pair{"sage2-4b", 1.0}, {"sage2-8b", 1.5}}) {
    bench.push_back({variant, records[0].shape, ms, 0});
  }
  const auto curve = pareto_curve(*pair, metric_info("rel_l1"), bench);
  ASSERT_EQ(curve.size(), 5U);
  const double errors[] = {0.1 / 4, 0.061 / 4, 0.032 / 4, 0.013 / 4, 0.004 / 4};
  for (std::size_t i = 0; i < curve.size(); ++i) {
    EXPECT_EQ(curve[i].cells, i);
    EXPECT_NEAR(curve[i].error, errors[i], 1e-15);
    EXPECT_NEAR(curve[i].ms, 4 + 0.5 * static_cast<double>(i), 1e-14);
  }
  EXPECT_NEAR(curve[1].worst, 0.03, 1e-15);
  AdaptiveMap map;
  map.base = "sage2-4b";
  map.fallback = "sage2-8b";
  map.cells = {{0, "", 0, 0, 0, 0, "sage2-4b"}, {3, "", 0, 0, 0, 0, "sage2-8b"}};
  const auto point = pareto_point(model, *pair, map, metric_info("rel_l1"), {});
  EXPECT_EQ(point.cells, 1U);
  EXPECT_NEAR(point.error, (0.04 + 0.03 + 0.02 + 0.001) / 4, 1e-15);
  EXPECT_FALSE(std::isfinite(point.ms)) << "no benchmark";
}

TEST(Bench, ReadsEntriesAndCountsOperations) {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "bench.json";
  const std::string shape =
      R"({"batch":2,"q_heads":3,"kv_heads":1,"q_len":100,"kv_len":200,"head_dim":64,"is_causal":true})";
  test::write_text(file, R"({"schema":"sage2-bench/1","entries":[{"variant":"peer","ms":0.5,"shape":)" + shape + "}]}");
  const auto entries = read_bench(file);
  ASSERT_EQ(entries.size(), 1U);
  // 4 * 2 * 3 * 100 * 200 * 64 / 2 operations in half a millisecond.
  EXPECT_NEAR(entries[0].tops, 15'360'000 / 0.5e-3 * 1e-12, 1e-12);
  for (const auto& [text, what] :
       {std::pair<std::string, std::string>{R"({"schema":"sage2-bench/2","entries":[]})", "expected schema"},
        {R"({"schema":"sage2-bench/1","entries":[{"variant":"x","ms":0,"shape":)" + shape + "}]}", "entry 0"},
        {"{", "not a benchmark file"}}) {
    test::write_text(file, text);
    try {
      (void)read_bench(file);
      ADD_FAILURE() << text;
    } catch (const DataError& e) {
      EXPECT_NE(std::string(e.what()).find(what), std::string::npos) << e.what();
    }
  }
}

// Every table is put through a real LaTeX engine, with labels that would break it if they were not escaped.
TEST_F(ReportTest, CompilesWithLaTeX) {
  if (std::system("pdflatex --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "pdflatex is not installed";
  info_ = test::make_info({{"50% & #1_x^2 {~} \\ <|>", "a"}, {"none", "b"}});
  auto report = load_report({run("run", test::small_grid())}, {});
  report.published = true;
  for (const auto& placed : report_tables(report)) {
    test::write_text(folder_.path() / "tables" / (placed.table.name + ".tex"), to_latex(placed.table.printed));
  }
  test::write_text(folder_.path() / "tables.tex", report_latex(report));
  const auto command = "cd '" + folder_.path().string() +
                       "' && pdflatex -interaction=nonstopmode -halt-on-error tables.tex >/dev/null 2>&1";
  EXPECT_EQ(std::system(command.c_str()), 0) << test::read_text(folder_.path() / "tables.log");
  EXPECT_GT(std::filesystem::file_size(folder_.path() / "tables.pdf"), 1000U);
}

// 12 cells of 3000 heads under 3 variants are 108,000 rows: the page keeps the worst of each cell.
TEST(HtmlPage, KeepsTheWorstHeadsOfLargeRuns) {
  std::vector<Record> records;
  for (const char* variant : {"a", "b", "c"}) {
    for (int layer = 0; layer < 12; ++layer) records.push_back(make_record(variant, layer, 0, 0, 0.99, 0.1, 3000));
  }
  Report report;
  report.models = collect_cells(records);
  report.variants = {{"a", "a"}, {"b", "b"}, {"c", "c"}};
  const auto data = html_data(report);
  const auto& first = data["models"][0]["variants"][0];
  EXPECT_EQ(first["heads"][0].size(), kMostHeadRows / 36);
  EXPECT_EQ(first["head_counts"][0], 3000);
  EXPECT_EQ(first["heads"][0][0][0], 1) << "odd heads are the worse ones";
}

TEST(HtmlPage, KeepsDataFromEndingTheScript) {
  auto record = make_record("a", 0, 0, 0, 0.99, 0.1);
  record.layer_name = "</script><!--";
  Report report;
  report.models = collect_cells({record});
  report.variants = {{"a", "a"}};
  const auto page = html_page(report);
  EXPECT_EQ(page.find("</script><!--"), std::string::npos);
  EXPECT_EQ(page.find("{{"), page.find("{{", page.find("<script>"))) << "place holders are filled";
  EXPECT_EQ(page.find("http://"), std::string::npos) << "no network";
  EXPECT_EQ(page.find("https://"), std::string::npos) << "no network";
}

// The page's own check sorts a table, walks the heat map by keyboard and opens a cell.
TEST_F(ReportTest, PageWorksInChromium) {
  if (std::system("chromium --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "chromium is not installed";
  test::write_text(folder_.path() / "report.html", html_page(load_report({run("run", test::small_grid(2))}, {})));
  const auto at = folder_.path().string();
  const auto command = "HOME='" + at + "' chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage" +
                       " --user-data-dir='" + at + "/profile' --enable-logging=stderr --virtual-time-budget=5000" +
                       " --dump-dom 'file://" + at + "/report.html#selftest' >'" + at + "/dom.html' 2>'" + at + "/log'";
  const int status = std::system(command.c_str());
  const auto dom = test::read_text(folder_.path() / "dom.html");
  if (status != 0 && dom.empty()) GTEST_SKIP() << "chromium does not start here";
  const auto log = test::read_text(folder_.path() / "log");
  EXPECT_NE(dom.find("data-selftest=\"passed\""), std::string::npos) << dom.substr(0, 300) << '\n' << log;
  EXPECT_EQ(dom.find("data-error"), std::string::npos);
  EXPECT_EQ(log.find(":CONSOLE"), std::string::npos) << log;
}

}  // namespace
}  // namespace sage2
