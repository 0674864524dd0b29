#include "harness/chunk_plan.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <numeric>
#include <random>

namespace sage2 {
namespace {

std::vector<NamedVariant> variants_of(const std::vector<std::string>& names) {
  std::vector<NamedVariant> all;
  for (const auto& name : names) all.push_back({name, name, parse_variant(name)});
  return all;
}

CellInfo cell_of(const Shape& shape) {
  CellInfo cell;
  cell.shape = shape;
  return cell;
}

std::vector<std::size_t> all_heads(const CellInfo& cell) {
  std::vector<std::size_t> heads(cell.shape.q_heads);
  std::iota(heads.begin(), heads.end(), 0);
  return heads;
}

constexpr std::size_t kPlenty = std::numeric_limits<std::size_t>::max() / 2;

TEST(ChunkPlan, OneChunkWhereThereIsRoom) {
  const auto cell = cell_of({2, 8, 2, 100, 300, 64});
  const auto chunks = plan_chunks(cell, all_heads(cell), 100, variants_of({"sage2-4b"}), {false}, kPlenty);
  ASSERT_EQ(chunks.size(), 1U);
  EXPECT_EQ(chunks[0].groups.size(), 4U);
  EXPECT_EQ(chunks[0].q_count(), 16U);
  EXPECT_EQ(chunks[0].rows, 100U);
  EXPECT_EQ(chunks[0].groups[1].batch, 0U);
  EXPECT_EQ(chunks[0].groups[1].kv_head, 1U);
  EXPECT_EQ(chunks[0].groups[1].q_heads, (std::vector<std::size_t>{4, 5, 6, 7}));
}

/// Heads 0, 1, 2 and 5 of 2 x 4: groups of three and of one cannot be one attention call.
TEST(ChunkPlan, GroupsOfDifferentSizeAreApart) {
  const auto cell = cell_of({1, 8, 2, 10, 10, 64});
  const auto chunks = plan_chunks(cell, {0, 1, 2, 5}, 10, variants_of({"fp16"}), {false}, kPlenty);
  ASSERT_EQ(chunks.size(), 2U);
  EXPECT_EQ(chunks[0].q_count(), 3U);
  EXPECT_EQ(chunks[1].q_count(), 1U);
  EXPECT_EQ(chunks[1].groups[0].kv_head, 1U);
}

TEST(ChunkPlan, EqualPartsRatherThanAFullAndAnEmptyOne) {
  const auto cell = cell_of({1, 30, 30, 4096, 4096, 64});
  const auto variants = variants_of({"sage2-4b", "sage2-8b"});
  const auto whole = plan_chunks(cell, all_heads(cell), 4096, variants, {false, false}, kPlenty);
  const auto bytes = chunk_bytes(cell, whole.at(0), 4096, variants, {false, false}).peak();
  const auto chunks = plan_chunks(cell, all_heads(cell), 4096, variants, {false, false}, bytes * 28 / 30);
  ASSERT_EQ(chunks.size(), 2U);
  EXPECT_EQ(chunks[0].groups.size(), 15U);
  EXPECT_EQ(chunks[1].groups.size(), 15U);
}

/// 40 heads of 131,072 tokens on a card of 24 GB: nothing may need more than it has.
TEST(ChunkPlan, LongSequencesFitOnSmallCards) {
  const auto cell = cell_of({1, 40, 8, 131072, 131072, 128});
  const auto variants = variants_of({"sage2-4b", "sage2-8b", "int4-hadamard"});
  constexpr std::size_t kBudget = std::size_t{10} << 30;
  const auto chunks = plan_chunks(cell, all_heads(cell), 131072, variants, {false, true, false}, kBudget);
  EXPECT_GT(chunks.size(), 1U);
  for (const auto& chunk : chunks) {
    EXPECT_LE(chunk_bytes(cell, chunk, 131072, variants, {false, true, false}).peak(), kBudget);
  }
}

/// Whatever the cell and the budget: every row of every selected head once, in order, and no chunk beyond the budget
/// unless it is as small as chunks get.
TEST(ChunkPlan, CoversEveryRowOnceWithinTheBudget) {
  std::mt19937_64 random(7);
  const auto draw = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  std::size_t cut_rows = 0;
  std::size_t cut_heads = 0;
  for (int round = 0; round < 300; ++round) {
    const std::size_t kv_heads = 1 + draw(5);
    const std::size_t group = 1 + draw(6);
    const auto cell =
        cell_of({1 + draw(3), kv_heads * group, kv_heads, 1 + draw(20000), 1 + draw(20000), 32 * (1 + draw(8))});
    std::vector<std::size_t> heads;
    for (const auto h : all_heads(cell)) {
      if (draw(4) > 0) heads.push_back(h);
    }
    if (heads.empty()) continue;
    const std::size_t rows = draw(2) == 0 ? cell.shape.q_len : 1 + draw(cell.shape.q_len);
    const auto variants = variants_of({"sage2-4b", "fp16"});
    const std::vector<bool> native{draw(2) == 0, draw(2) == 0};
    const std::size_t budget = std::size_t{1} << (20 + draw(14));
    const auto chunks = plan_chunks(cell, heads, rows, variants, native, budget);

    std::size_t next_head = 0;
    std::size_t next_row = 0;
    for (const auto& chunk : chunks) {
      EXPECT_EQ(chunk.first_row, next_row);
      const bool single = chunk.q_count() == 1;
      if (chunk.rows < rows) {
        EXPECT_TRUE(single);
        ++cut_rows;
      }
      const bool fits = chunk_bytes(cell, chunk, rows, variants, native).peak() <= budget;
      EXPECT_TRUE(fits || (single && chunk.rows <= 1024)) << chunk.q_count() << " x " << chunk.rows;
      const auto first_head = next_head;
      for (const auto& g : chunk.groups) {
        EXPECT_EQ(g.q_heads.size(), chunk.groups.front().q_heads.size());
        for (const auto h : g.q_heads) {
          EXPECT_EQ(h, heads[next_head % heads.size()]);
          EXPECT_EQ(g.batch, next_head / heads.size());
          EXPECT_EQ(g.kv_head, cell.shape.kv_head(h));
          ++next_head;
        }
      }
      next_row += chunk.rows;
      if (next_row < rows) {
        next_head = first_head;  // more rows of the same head
      } else {
        EXPECT_EQ(next_row, rows);
        next_row = 0;
      }
    }
    EXPECT_EQ(next_head, heads.size() * cell.shape.batch);
    if (chunks.size() > 1) ++cut_heads;
  }
  // The test means nothing if it never came to that.
  EXPECT_GT(cut_rows, 0U);
  EXPECT_GT(cut_heads, 0U);
}

}  // namespace
}  // namespace sage2
