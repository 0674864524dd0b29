#include "reports/costs.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "datasets/error.hpp"
#include "tests/reports/toy_run.hpp"

namespace sage2 {
namespace {

using test::ids;
using test::ToyRun;

double constant(int, int, int, std::size_t) {
  return 0.1;
}

TEST(Costs, ModelIsWhatItSays) {
  EXPECT_DOUBLE_EQ(relative_time({16, 16}), 1);
  EXPECT_DOUBLE_EQ(relative_time({8, 16}), 0.75);  // SageAttention1
  EXPECT_DOUBLE_EQ(relative_time({8, 8}), 0.5);    // SageAttention2-8b
  EXPECT_DOUBLE_EQ(relative_time({4, 8}), 0.375);  // SageAttention2-4b
}

TEST(Costs, ModelScalesWithTheShape) {
  test::Runs runs{ToyRun().make(constant)};
  for (auto& r : runs[0].records) {
    if (r.layer == 1) r.shape.is_causal = true;
    if (r.timestep == 5) r.shape.q_len = 128;
  }
  const auto table = pool_cells(runs, ids({"sage2-4b", "sage2-8b"}));
  const auto costs = modelled_costs(table, test::toy_bits);
  const double flops = 4.0 * 1 * 2 * 64 * 64 * 32;  // 4 batch heads q_len kv_len head_dim
  EXPECT_DOUBLE_EQ(costs.grid.at(0, 0), 0.375e-12 * flops);
  EXPECT_DOUBLE_EQ(costs.grid.at(0, 1), 0.5e-12 * flops);
  EXPECT_DOUBLE_EQ(costs.grid.at(1, 1), 1e-12 * flops);
  EXPECT_DOUBLE_EQ(costs.grid.at(4, 1), 0.5e-12 * flops);
}

BenchEntry entry(const std::string& variant, std::int64_t length, double ms) {
  return {variant, {1, 2, 2, length, length, 32, false, 0}, ms, 0};
}

TEST(Costs, MeasuredTakesTheShapeItself) {
  const test::Runs runs{ToyRun().make(constant)};
  const auto table = pool_cells(runs, ids({"sage2-4b", "sage2-8b"}));
  const auto costs =
      measured_costs(table, {entry("sage2-4b", 128, 9), entry("sage2-4b", 64, 2), entry("sage2-8b", 64, 3)}, "b.json");
  EXPECT_DOUBLE_EQ(costs.grid.at(0, 0), 2);
  EXPECT_DOUBLE_EQ(costs.grid.at(5, 1), 3);
  EXPECT_TRUE(costs.notes.empty());
}

TEST(Costs, MeasuredScalesTheNearestShapeAndSaysSo) {
  const test::Runs runs{ToyRun().make(constant)};
  const auto table = pool_cells(runs, ids({"sage2-4b", "sage2-8b"}));
  // 128 is four times the work of 64, 1024 is 256 times: the first is nearer.
  const auto costs = measured_costs(
      table, {entry("sage2-4b", 1024, 100), entry("sage2-4b", 128, 8), entry("sage2-8b", 64, 3)}, "b.json");
  EXPECT_DOUBLE_EQ(costs.grid.at(0, 0), 2);
  ASSERT_EQ(costs.notes.size(), 1U) << "one note a shape, not one a cell";
  EXPECT_NE(costs.notes[0].find("sage2-4b"), std::string::npos);
  EXPECT_NE(costs.notes[0].find("128 x 128"), std::string::npos);
  auto other = entry("sage2-8b", 64, 3);
  other.shape.head_dim = 64;
  EXPECT_THROW((void)measured_costs(table, {entry("sage2-4b", 64, 1), other}, "b.json"), DataError);
}

TEST(Costs, MeasuredOnAChipThatRunsItInItsOwnWay) {
  const test::Runs runs{ToyRun().make(constant)};
  const auto table = pool_cells(runs, ids({"sage2-4b", "sage2-8b"}));
  auto there = entry("sage2-4b@hopper", 64, 2);
  there.stands_for = {"sage2-4b"};
  const auto costs = measured_costs(table, {entry("sage2-8b", 64, 3), there}, "b.json");
  EXPECT_DOUBLE_EQ(costs.grid.at(0, 0), 2);
  there.stands_for.clear();
  EXPECT_THROW((void)measured_costs(table, {entry("sage2-8b", 64, 3), there}, "b.json"), DataError);
}

TEST(Costs, ReadsTheJsonOfGoogleBenchmark) {
  const auto file = std::filesystem::path(testing::TempDir()) / "sage2_google_bench.json";
  const auto line = [](const char* extra, double time) {
    return R"({"name":"attention","label":"sage2-8b","time_unit":"us","batch":1.0,"q_heads":2.0,"kv_heads":2.0,)"
           R"("q_len":64.0,"kv_len":64.0,"head_dim":32.0,"is_causal":1.0,)" +
           std::string(extra) + R"("real_time":)" + std::to_string(time) + "}";
  };
  const std::string repetitions =
      line(R"("run_type":"iteration",)", 1000) + "," + line(R"("run_type":"iteration",)", 4000);
  std::ofstream(file) << R"({"context":{},"benchmarks":[{"name":"other","real_time":1,"time_unit":"ns"},)"
                      << repetitions << "]}";
  auto entries = read_bench(file);
  ASSERT_EQ(entries.size(), 1U);
  EXPECT_EQ(entries[0].variant, "sage2-8b");
  EXPECT_TRUE(entries[0].shape.is_causal);
  EXPECT_DOUBLE_EQ(entries[0].ms, 2.5);
  const std::string median = line(R"("run_type":"aggregate","aggregate_name":"median",)", 1500);
  std::ofstream(file) << R"({"benchmarks":[)" << repetitions << "," << median << "]}";
  entries = read_bench(file);
  ASSERT_EQ(entries.size(), 1U);
  EXPECT_DOUBLE_EQ(entries[0].ms, 1.5);
  std::ofstream(file) << R"({"benchmarks":[)" << line("", 0) << "]}";
  EXPECT_THROW((void)read_bench(file), DataError);
}

}  // namespace
}  // namespace sage2
