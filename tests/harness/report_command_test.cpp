#include <sys/wait.h>

#include <cstdlib>

#include "gtest/gtest.h"
#include "harness/plot_script.hpp"
#include "tests/reports/synthetic.hpp"

/// `sage2-eval report` and `compare` as a user runs them: files, messages, exit codes.
namespace sage2 {
namespace {

namespace fs = std::filesystem;

class ReportCommand : public testing::Test {
 protected:
  test::TemporaryFolder folder_;
  RunInfo info_ = test::make_info({{"Hadamard", "a"}, {"none", "b"}});
  std::string output_;

  void SetUp() override { test::write_run(folder_.path() / "run", info_, test::small_grid(2)); }

  /// Runs the program in the test's folder; what it prints on either stream is in `output_`.
  int run(const std::string& arguments, const std::string& environment = "") {
    const auto command = "cd '" + folder_.path().string() + "' && " + environment + " '" SAGE2_EVAL_BINARY "' " +
                         arguments + " >output 2>&1";
    const int status = std::system(command.c_str());
    output_ = test::read_text(folder_.path() / "output");
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  [[nodiscard]] std::string file(const std::string& name) const { return test::read_text(folder_.path() / name); }
};

TEST_F(ReportCommand, WritesWhatIsAskedForUnderStableNames) {
  ASSERT_EQ(run("report run --out out --format md,tex,csv,json,html"), 0) << output_;
  for (const char* name : {"report.md", "report.html", "report.json", "tables.tex", "tables/toy-smoothing.tex",
                           "tables/toy-smoothing.csv", "tables/toy-variants.csv", "tables/toy-tails.tex",
                           "tables/toy-quantiles.csv", "tables/toy-worst-cells.csv", "tables/toy-all-cells.csv"}) {
    EXPECT_TRUE(fs::is_regular_file(folder_.path() / "out" / name)) << name;
  }
  EXPECT_FALSE(fs::exists(folder_.path() / "out" / "plots"));
  ASSERT_EQ(run("report run --out csv --format csv"), 0) << output_;
  EXPECT_FALSE(fs::exists(folder_.path() / "csv" / "report.md"));
}

TEST_F(ReportCommand, DrawsPlotsThatAreTheSameToTheLastByte) {
  const int first = run("report run --out first --format svg,pdf --metric rel_l1,cos_sim --difference a b");
  if (output_.find("no Python with matplotlib") != std::string::npos) GTEST_SKIP() << output_;
  ASSERT_EQ(first, 0) << output_;
  ASSERT_EQ(run("report run --out second --format svg,pdf --metric rel_l1,cos_sim --difference a b"), 0) << output_;
  std::size_t plots = 0;
  for (const auto& entry : fs::directory_iterator(folder_.path() / "first" / "plots")) {
    const auto name = entry.path().filename().string();
    EXPECT_EQ(file("first/plots/" + name), file("second/plots/" + name)) << name;
    EXPECT_GT(entry.file_size(), 1000U) << name;
    ++plots;
  }
  // plots.json; heat map, profile, distribution and difference of two metrics, each as SVG and PDF.
  EXPECT_EQ(plots, 1U + 2 * 4 * 2);
}

TEST_F(ReportCommand, WritesTheRestWherePlotsCannotBeDrawn) {
  EXPECT_EQ(run("report run --out out --format svg,md", "PYTHON=/nonexistent"), 1) << output_;
  EXPECT_NE(output_.find("no Python with matplotlib"), std::string::npos) << output_;
  EXPECT_TRUE(fs::is_regular_file(folder_.path() / "out" / "report.md"));
}

TEST_F(ReportCommand, ExplainsWhatIsWrong) {
  struct Case {
    const char* arguments;
    int code;
    const char* what;
  };
  test::write_run(folder_.path() / "empty", info_, {});
  test::write_text(folder_.path() / "file", "x");
  const Case cases[] = {
      {"report nowhere --out out", 3, "nowhere: not a run folder"},
      {"report empty --out out", 3, "empty: holds no records"},
      // A path below a regular file cannot be written by anyone, root included.
      {"report run --out file/out", 3, "file/out: cannot be made"},
      {"report run --out /proc/out", 3, "/proc/out: cannot be made"},
      {"report run --out out --metric speed", 2, "no metric is called \"speed\""},
      {"report run --out out --layers 9", 2, "--layers"},
      {"report run --out out --variants c", 2, "no records of a variant \"c\""},
      {"report run --out out --map file", 3, "file"},
      {"report run --out out --bench file", 3, "file: not a benchmark file"},
      {"report run --out out --format doc", 2, "doc"},
      {"compare run empty", 3, "empty: holds no records"},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(run(c.arguments), c.code) << c.arguments << '\n' << output_;
    EXPECT_NE(output_.find(c.what), std::string::npos) << c.arguments << '\n' << output_;
  }
}

TEST_F(ReportCommand, GatesOnWorseCells) {
  auto worse = test::small_grid(2);
  for (auto& r : worse) {
    if (r.variant != "a") continue;
    r.sums.abs_err *= 1.5;
    r.metrics.rel_l1 *= 1.5;
  }
  test::write_run(folder_.path() / "worse", info_, worse);
  EXPECT_EQ(run("compare run run --fail-if-worse"), 0) << output_;
  EXPECT_EQ(run("compare run worse"), 0) << output_;
  EXPECT_NE(output_.find("worse"), std::string::npos);
  EXPECT_EQ(run("compare run worse --fail-if-worse"), 1) << output_;
  EXPECT_EQ(run("compare worse run --fail-if-worse"), 0) << output_;
  EXPECT_EQ(run("compare run worse --fail-if-worse --variants b"), 0) << output_;
  ASSERT_EQ(run("compare run worse --json"), 0);
  EXPECT_EQ(nlohmann::json::parse(output_).at("worse"), true) << output_;
}

}  // namespace
}  // namespace sage2
