#include "harness/bench_results.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>

#include "datasets/error.hpp"
#include "reports/bench.hpp"

namespace sage2 {
namespace {

BenchResult result(const std::string& part, std::int64_t length, std::vector<double> ms) {
  return {.variant = "sage2-4b@hopper",
          .written = "",
          .stands_for = {"sage2-4b"},
          .part = part,
          .shape = {.batch = 2, .q_heads = 4, .kv_heads = 4, .q_len = length, .kv_len = length, .head_dim = 64},
          .ms = std::move(ms),
          .cos_sim = 0.999,
          .rel_l1 = 0.04};
}

TEST(BenchResults, QuantilesAreLinearBetweenSamples) {
  EXPECT_DOUBLE_EQ(quantile({3, 1, 2, 4}, 0), 1);
  EXPECT_DOUBLE_EQ(quantile({3, 1, 2, 4}, 0.5), 2.5);  // numpy.quantile([3, 1, 2, 4], 0.5)
  EXPECT_DOUBLE_EQ(quantile({3, 1, 2, 4}, 0.9), 3.7);  // numpy.quantile([3, 1, 2, 4], 0.9)
  EXPECT_DOUBLE_EQ(quantile({3, 1, 2, 4}, 1), 4);
  EXPECT_DOUBLE_EQ(quantile({7}, 0.3), 7);
  EXPECT_THROW((void)quantile({}, 0.5), std::invalid_argument);
}

TEST(BenchResults, OnlyWhatAgreesIsTimed) {
  const auto errors = [](double rel_l1, double cos_sim) {
    ErrorMetrics m;
    m.rel_l1 = rel_l1;
    m.cos_sim = cos_sim;
    return m;
  };
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  const auto accurate = errors(0.04, 0.999);
  EXPECT_EQ(why_not_timed(errors(0.041, 0.999), accurate, 0.25), "");
  EXPECT_NE(why_not_timed(errors(0.043, 0.999), accurate, 0.25), "");
  EXPECT_NE(why_not_timed(errors(0.04, 0.9989), accurate, 0.25), "");
  EXPECT_NE(why_not_timed(errors(kNaN, kNaN), accurate, 0.25), "");
  EXPECT_NE(why_not_timed(errors(0.04, 0.999), errors(kNaN, kNaN), 0.25), "");
  EXPECT_NE(why_not_timed(errors(0.04, 0.999), accurate, 0.03), "") << "the accurate kernel itself";
}

TEST(BenchResults, RankReadsWhatIsWritten) {
  const auto file = std::filesystem::path(testing::TempDir()) / "sage2_bench_results.json";
  std::ofstream(file) << bench_json({result("", 1024, {4, 2, 3}), result("kernel alone", 1024, {1})},
                                    {{"gpu", "none"}});
  const auto entries = read_bench(file);
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0].variant, "sage2-4b@hopper");
  EXPECT_DOUBLE_EQ(entries[0].ms, 3) << "the median";
  // 4 x 2 x 4 x 1024 x 1024 x 64 operations in 3 ms.
  EXPECT_NEAR(entries[0].tops, 2147483648.0 / 3e-3 * 1e-12, 1e-9);
  const RecordShape shape = result("", 1024, {1}).shape;
  EXPECT_DOUBLE_EQ(bench_ms(entries, "sage2-4b", shape).value(), 3) << "costs are those of the whole call";
  EXPECT_DOUBLE_EQ(bench_ms(entries, "sage2-4b@hopper", shape).value(), 3);
  EXPECT_DOUBLE_EQ(bench_ms(entries, "sage2-4b@hopper (kernel alone)", shape).value(), 1);
  EXPECT_FALSE(bench_ms(entries, "sage2-8b", shape));
}

TEST(BenchResults, OneTableForEachHeadDimAndMask) {
  auto causal = result("", 2048, {1});
  causal.shape.is_causal = true;
  const auto tables =
      bench_tables({result("", 1024, {1}), result("", 2048, {1}), result("kernel alone", 2048, {1}), causal});
  ASSERT_EQ(tables.size(), 2U);
  EXPECT_EQ(tables[0].columns.size(), 3U);
  ASSERT_EQ(tables[0].rows.size(), 2U);
  EXPECT_EQ(tables[0].rows[0], (std::vector<std::string>{"sage2-4b@hopper", "2", "9"}));
  EXPECT_EQ(tables[0].rows[1], (std::vector<std::string>{"sage2-4b@hopper (kernel alone)", "", "9"}));
  EXPECT_EQ(tables[1].rows[0][1], "4");
}

TEST(BenchCommand, ListsItsBenchmarksOrSaysWhyItCannotRun) {
  const auto out = std::filesystem::path(testing::TempDir()) / "sage2_bench_list.txt";
  const std::string command =
      std::string(SAGE2_EVAL_BINARY) + " bench --benchmark_list_tests > " + out.string() + " 2>&1";
  const int status = std::system(command.c_str());  // NOLINT(concurrency-mt-unsafe)
  std::ifstream in(out);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 0) {
    EXPECT_NE(text.find("attention/sage2-4b@hopper/d:128/causal:1/n:8192/whole"), std::string::npos) << text;
    EXPECT_NE(text.find("overhead/smooth_q/d:64/n:4096/kernel"), std::string::npos) << text;
  } else {
    EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(ExitCode::device));
    EXPECT_EQ(text.rfind("sage2-eval: bench: ", 0), 0U) << text;
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  }
}

}  // namespace
}  // namespace sage2
