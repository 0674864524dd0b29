#include "harness/record_sink.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>

#include "datasets/error.hpp"
#include "tests/datasets/capture_files.hpp"

namespace sage2 {
namespace {

using testing::TempDir;

Record record(int layer) {
  Record r;
  r.key = "key" + std::to_string(layer);
  r.layer = layer;
  return r;
}

std::vector<int> layers_of(const std::vector<Record>& records) {
  std::vector<int> layers;
  for (const auto& r : records) layers.push_back(r.layer);
  return layers;
}

/// Cells that finish in any order, in several threads, are written in theirs.
TEST(RecordSink, WritesInTheOrderOfCells) {
  constexpr int kCells = 60;
  const TempDir dir;
  RunWriter run(dir / "run", {});
  RecordSink sink(run, std::vector<std::string>(kCells, "cell"));
  std::vector<int> order(kCells);
  for (int i = 0; i < kCells; ++i) order[static_cast<std::size_t>(i)] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937_64(5));
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (std::size_t i = t; i < order.size(); i += 4) {
          const int cell = order[i];
          const auto index = static_cast<std::size_t>(cell);
          if (cell % 10 == 7) {
            sink.failed(index, {"toy.h5", cell, 0, 0, "bad"});
          } else if (cell % 10 == 3) {
            sink.done(index, {});
          } else {
            sink.done(index, {record(cell)});
          }
        }
      });
    }
  }
  const auto result = read_run(dir / "run");
  const auto layers = layers_of(result.records);
  EXPECT_EQ(layers.size(), 48U);
  EXPECT_TRUE(std::is_sorted(layers.begin(), layers.end()));
  ASSERT_EQ(result.errors.size(), 6U);
  EXPECT_EQ(result.errors.front().layer, 7);
  EXPECT_EQ(sink.failures(), 6U);
}

TEST(RecordSink, KeepsWhatIsFinishedWhereTheRunEndsEarly) {
  const TempDir dir;
  RunWriter run(dir / "run", {});
  RecordSink sink(run, std::vector<std::string>(5, "cell"));
  sink.done(4, {record(4)});
  sink.done(0, {record(0)});
  sink.done(2, {record(2)});
  EXPECT_EQ(layers_of(read_run(dir / "run").records), (std::vector<int>{0}));
  sink.write_all();
  EXPECT_EQ(layers_of(read_run(dir / "run").records), (std::vector<int>{0, 2, 4}));
}

TEST(RecordSink, EachKeyIsClaimedOnce) {
  const TempDir dir;
  RunWriter run(dir / "run", {});
  RecordSink sink(run, {"a", "b"});
  EXPECT_TRUE(sink.claim("key0"));
  EXPECT_FALSE(sink.claim("key0"));
  sink.done(0, {record(0)});
  EXPECT_FALSE(sink.claim("key0"));
  EXPECT_TRUE(sink.claim("key1"));
}

}  // namespace
}  // namespace sage2
