#include <algorithm>
#include <cmath>
#include <limits>

#include "datasets/error.hpp"
#include "gtest/gtest.h"
#include "reports/head_scanner.hpp"
#include "reports/record.hpp"
#include "tests/reports/synthetic.hpp"

namespace sage2 {
namespace {

using nlohmann::json;
using test::make_record;

// The scanner must agree with the general parser on every digit.
TEST(HeadScanner, AgreesWithTheGeneralParser) {
  auto record = make_record("v", 1, 2, 3, 0.987654321012345678, 1.0 / 3, 5);
  record.heads[1].metrics.rmse = 1e-310;  // subnormal
  record.heads[2].metrics.cos_sim_se = 1.0 / 7;
  record.heads[3].metrics.max_abs = std::numeric_limits<double>::quiet_NaN();
  const auto line = json(record).dump();
  const auto split = split_heads(line);
  ASSERT_TRUE(split.has_value());
  const auto expected = json::parse(line).get<Record>();
  ASSERT_EQ(split->heads.size(), 5U);
  for (std::size_t i = 0; i < 5; ++i) {
    const auto& a = split->heads[i];
    const auto& b = expected.heads[i];
    EXPECT_EQ(a.head, b.head);
    EXPECT_EQ(a.metrics.cos_sim, b.metrics.cos_sim);
    EXPECT_EQ(a.metrics.rmse, b.metrics.rmse);
    EXPECT_EQ(a.metrics.p999, b.metrics.p999);
    EXPECT_EQ(a.metrics.cos_sim_se, b.metrics.cos_sim_se);
    EXPECT_EQ(std::isnan(a.metrics.max_abs), std::isnan(b.metrics.max_abs));
  }
  EXPECT_TRUE(json::parse(split->rest).at("heads").empty());
}

TEST(HeadScanner, LeavesTheUnexpectedToTheGeneralParser) {
  EXPECT_FALSE(split_heads(R"({"heads": []})").has_value()) << "blanks";
  EXPECT_FALSE(split_heads(R"({"heads":[{"head":0}]})").has_value()) << "metrics missing";
  EXPECT_FALSE(split_heads(R"({"heads":[{"cos_sim":1)").has_value()) << "cut off";
  auto line = json(make_record("v", 0, 0, 0, 0.9, 0.1)).dump();
  line.replace(line.find("\"batch\":0"), 9, "\"batch\":0.5");
  EXPECT_FALSE(split_heads(line).has_value()) << "a batch that is no whole number";
}

class RunFolder : public testing::Test {
 protected:
  test::TemporaryFolder folder_;
  RunInfo info_ = test::make_info({{"A", "a"}, {"B", "b"}});

  /// What reading says when it fails.
  std::string failure() {
    try {
      (void)read_run(folder_.path());
    } catch (const DataError& e) {
      return e.what();
    }
    return "";
  }
};

TEST_F(RunFolder, KeepsTheOrderOfTheFile) {
  const auto records = test::small_grid(20);
  test::write_run(folder_.path(), info_, records);
  const auto run = read_run(folder_.path());
  ASSERT_EQ(run.records.size(), records.size());
  for (std::size_t i = 0; i < records.size(); ++i) EXPECT_EQ(run.records[i].key, records[i].key);
  EXPECT_FALSE(run.truncated);
  EXPECT_EQ(json(run.records[3]), json(records[3]));
}

TEST_F(RunFolder, SkipsATruncatedLastLine) {
  test::write_run(folder_.path(), info_, test::small_grid());
  auto text = test::read_text(folder_.path() / "records.jsonl");
  test::write_text(folder_.path() / "records.jsonl", text.substr(0, text.size() - 100));
  const auto run = read_run(folder_.path());
  EXPECT_TRUE(run.truncated);
  EXPECT_EQ(run.records.size(), test::small_grid().size() - 1);
}

TEST_F(RunFolder, NamesTheLineThatIsNoRecord) {
  test::write_run(folder_.path(), info_, test::small_grid());
  auto text = test::read_text(folder_.path() / "records.jsonl");
  text.insert(text.find('\n') + 1, "{\"schema\":\"sage2-record/1\"}\n");
  test::write_text(folder_.path() / "records.jsonl", text);
  EXPECT_NE(failure().find("records.jsonl, line 2: not a record"), std::string::npos) << failure();
}

TEST_F(RunFolder, RefusesANewerSchema) {
  test::write_run(folder_.path(), info_, test::small_grid());
  auto text = test::read_text(folder_.path() / "records.jsonl");
  text.replace(text.find("sage2-record/1"), 14, "sage2-record/2");
  test::write_text(folder_.path() / "records.jsonl", text);
  EXPECT_NE(failure().find("newer"), std::string::npos) << failure();
  EXPECT_NE(failure().find("line 1"), std::string::npos) << failure();
}

TEST_F(RunFolder, SaysThatAFolderIsNoRun) {
  EXPECT_NE(failure().find("no run.json"), std::string::npos) << failure();
}

}  // namespace
}  // namespace sage2
