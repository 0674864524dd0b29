#include "reports/heatmap.hpp"

#include <gtest/gtest.h>

#include <sstream>

namespace sage2 {
namespace {

std::vector<HeatCell> grid(int layers, int timesteps) {
  std::vector<HeatCell> cells;
  for (int l = 0; l < layers; ++l) {
    for (int t = 0; t < timesteps; ++t) {
      cells.push_back({l, t, 0.2 + 0.7 * l / layers + 0.1 * t / timesteps, static_cast<std::size_t>(l % 2)});
    }
  }
  return cells;
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

const std::vector<std::string> kNames{"sage2-4b", "sage2-8b"};

TEST(HeatMap, ShowsScoresWhereTheyFit) {
  const std::vector<HeatCell> cells{{0, 0, 0.4434, 1}, {0, 24, 0.99961, 0}, {2, 0, -0.25, 1}, {2, 24, 0.05, 2}};
  EXPECT_EQ(heat_map(cells, {"sage2-4b", "sage2-8b", "fp16"}),
            "layer  timestep\n"
            "         0    24\n"
            "    0 .443# 1.00.\n"
            "    2 -.25# .050A\n"
            ". sage2-4b (1)   # sage2-8b (2)   A fp16 (1)\n");
}

TEST(HeatMap, FitsEightyColumnsForAnyNumberOfTimesteps) {
  for (const int timesteps : {1, 5, 12, 13, 24, 25, 50, 74, 75, 1000}) {
    for (const bool colour : {false, true}) {
      auto rows = lines(heat_map(grid(3, timesteps), kNames, {colour, 80}));
      ASSERT_GE(rows.size(), 6U);
      for (auto row : rows) {
        for (std::size_t at = 0; (at = row.find('\x1b', at)) != std::string::npos;) {
          row.erase(at, row.find('m', at) + 1 - at);
        }
        EXPECT_LE(row.size(), 80U) << row;
      }
      EXPECT_EQ(rows[2].find('\x1b') != std::string::npos, colour);
    }
  }
}

TEST(HeatMap, NarrowFormMarksTheFallback) {
  const auto rows = lines(heat_map(grid(2, 50), kNames));
  EXPECT_EQ(rows[2].substr(0, 8), "    0 22");  // layer 0 runs the base: tenths of the score
  EXPECT_EQ(rows[3].substr(0, 8), "    1 ##");
  EXPECT_EQ(rows[2].size(), 56U);
}

TEST(HeatMap, BinsShowTheirWorstCell) {
  auto cells = grid(1, 150);
  cells[3].score = 0.01;
  const auto rows = lines(heat_map(cells, kNames));
  EXPECT_EQ(rows[2][6 + 1], '0') << "three timesteps a column: cell 3 is the first of the second";
  EXPECT_NE(rows[3].find("3 timesteps a column") + rows[4].find("3 timesteps a column"), 2 * std::string::npos);
}

}  // namespace
}  // namespace sage2
