#include "kernels/sm90_work.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "fmt/core.h"

/// How the Hopper kernel's work is cut: counted here row by row, on the CPU.
namespace sage2::cuda::sm90 {
namespace {

struct Shape {
  int heads, q_len, kv_len;
  bool is_causal;
  int causal_shift, heads_per_group;
  int head_dim = 128;
};

AttentionParams params_of(const Shape& s) {
  AttentionParams p{};
  p.batch = 1;
  p.q_heads = p.kv_heads = s.heads;
  p.q_len = s.q_len;
  p.kv_len = s.kv_len;
  p.head_dim = s.head_dim;
  p.is_causal = s.is_causal ? 1 : 0;
  p.causal_shift = s.causal_shift;
  p.heads_per_group = s.heads_per_group;
  return p;
}

/// Keys that a row sees, as docs/capture.md defines the mask.
int visible(const Shape& s, int row) {
  if (!s.is_causal) return s.kv_len;
  return std::min(s.kv_len, std::max(0, row + s.causal_shift + 1));
}

int tiles_of(int keys) {
  return (keys + kTileKeys - 1) / kTileKeys;
}

/// Every row of every head is in one piece; a piece has all key tiles that its rows see, and no more; so has each of
/// its warpgroups.
void expect_cover(const Shape& s, int warpgroups, bool skips, int multiprocessors) {
  const auto what = fmt::format("{} heads of {} x {}, causal {} shift {}, {} warpgroups on {}", s.heads, s.q_len,
                                s.kv_len, s.is_causal, s.causal_shift, warpgroups, multiprocessors);
  auto p = params_of(s);
  p.pieces = cut(p, warpgroups, skips, multiprocessors);
  const int whole_rows = warpgroups * kTileRows;
  std::vector<int> times(static_cast<std::size_t>(s.heads) * s.q_len, 0);
  for (int i = 0; i < p.pieces.count; ++i) {
    const Work w = work_at(p, whole_rows, i);
    ASSERT_TRUE(w.head >= 0 && w.head < s.heads) << what << " piece " << i;
    ASSERT_EQ(w.row % kTileRows, 0) << what << " piece " << i;
    ASSERT_LE(w.end - w.row, whole_rows) << what << " piece " << i;
    int most = 0;
    for (int group = 0; group < warpgroups; ++group) {
      const int first = w.row + group * kTileRows;
      const int end = std::min(first + kTileRows, w.end);
      int most_of_group = 0;
      for (int row = first; row < end; ++row) {
        ++times[static_cast<std::size_t>(w.head) * s.q_len + row];
        most_of_group = std::max(most_of_group, visible(s, row));
      }
      ASSERT_EQ(tiles_seen(p, first, end), tiles_of(most_of_group)) << what << " piece " << i << " group " << group;
      most = std::max(most, most_of_group);
    }
    ASSERT_EQ(w.tiles, tiles_of(most)) << what << " piece " << i;
  }
  for (const int n : times) ASSERT_EQ(n, 1) << what;
}

TEST(Sm90Work, CoversEveryRowOnce) {
  for (const int q_len : {1, 63, 64, 65, 190, 256, 257, 700, 1030}) {
    for (const int heads : {1, 2, 5, 33, 66, 131, 132, 133, 140, 266}) {
      for (const int warpgroups : {2, 3, 4}) {
        for (const bool skips : {false, true}) {
          expect_cover({heads, q_len, 300, false, 0, heads}, warpgroups, skips, 132);
          for (const int group : {1, 24, heads}) {
            expect_cover({heads, q_len, q_len, true, 0, std::min(group, heads)}, warpgroups, skips, 132);
          }
          expect_cover({heads, q_len, 300, true, 300 - q_len, 1}, warpgroups, skips, 132);
        }
      }
    }
  }
}

/// 4096 pieces of 256 rows on 132 multiprocessors: 31 rounds and 4 pieces, which become 16 of one warpgroup.
TEST(Sm90Work, CutsWhatWouldBeARoundOfItsOwn) {
  const auto p = params_of({128, 8192, 8192, false, 0, 128});
  const Pieces pieces = cut(p, 4, true, 132);
  EXPECT_EQ(pieces.whole, 31 * 132);
  EXPECT_EQ(pieces.count, 31 * 132 + 16);
  EXPECT_EQ(pieces.rows, 64);
  // 60 pieces more than a multiple of the multiprocessors are enough for most of them, cut in two by four warpgroups
  // and not at all by three.
  const auto other = params_of({192, 256, 256, false, 0, 192});
  EXPECT_EQ(cut(other, 4, true, 132).count, 132 + 2 * 60);
  const auto three = params_of({192, 192, 192, false, 0, 192});
  EXPECT_EQ(cut(three, 3, true, 132).count, 192);
  EXPECT_EQ(cut(other, 4, false, 132).count, 192);
}

/// Few heads use all multiprocessors that their rows allow.
TEST(Sm90Work, CutsSmallProblems) {
  for (const bool causal : {false, true}) {
    const auto p = params_of({8, 1024, 1024, causal, 0, 8});
    const Pieces pieces = cut(p, 4, true, 132);
    EXPECT_EQ(pieces.whole, 0);
    EXPECT_EQ(pieces.count, 8 * 16);
    EXPECT_EQ(cut(p, 4, true, 24).count, causal ? 32 : 24 + 2 * 8);
  }
}

/// With a mask the longest pieces come first, within each group of heads.
TEST(Sm90Work, LongestFirst) {
  auto p = params_of({10, 2000, 2000, true, 0, 4});
  p.pieces = cut(p, 3, true, 132);
  std::set<int> groups_left;
  int before = 1 << 30;
  int group = 0;
  for (int i = 0; i < p.pieces.count; ++i) {
    const Work w = work_at(p, 192, i);
    if (w.head / 4 != group) {
      EXPECT_TRUE(groups_left.insert(group).second);
      group = w.head / 4;
      before = 1 << 30;
    }
    EXPECT_LE(w.tiles, before) << i;
    before = w.tiles;
  }
}

TEST(Sm90Work, LastGroupIsWhole) {
  EXPECT_EQ(even_group(256, 23), 16);  // not 23, which would leave 3
  EXPECT_EQ(even_group(128, 11), 8);
  EXPECT_EQ(even_group(5, 3), 3);  // 2 of 3 are more than 1 of 2
  for (int all = 1; all <= 300; ++all) {
    for (int limit = 1; limit <= all; ++limit) {
      const int heads = even_group(all, limit);
      ASSERT_LE(heads, limit);
      ASSERT_GE(2 * heads, limit);
      const double last = static_cast<double>((all - 1) % heads + 1) / heads;
      for (int other = (limit + 1) / 2; other <= limit; ++other) {
        ASSERT_GE(last, static_cast<double>((all - 1) % other + 1) / other) << all << " heads, at most " << limit;
      }
    }
  }
}

/// Codes of V: every unit of every head that the preparation leaves is made once, beside a piece of work that is taken
/// before any piece that needs the head.
void expect_values(const Shape& s, int shared_by, int warpgroups, int groups_ahead) {
  auto p = params_of(s);
  p.kv_heads = s.heads / shared_by;
  p.k_tiles = tiles_of(s.kv_len);
  p.pieces = cut(p, warpgroups, true, 132);
  p.values.groups_ahead = groups_ahead;
  const int whole_rows = warpgroups * kTileRows;
  const ValueShares v = shares(p, whole_rows);
  ASSERT_EQ(v.units * unit_keys(padded_head_dim(s.head_dim)), p.k_tiles * kTileKeys);
  const auto what = fmt::format("{} heads of {} x {}, {} of a group, causal {}, {} warpgroups", s.heads, s.q_len,
                                s.kv_len, s.heads_per_group, s.is_causal, warpgroups);
  const auto units = static_cast<std::size_t>(p.kv_heads) * v.units;
  std::vector<int> made(units, -1);
  std::vector<int> needed(static_cast<std::size_t>(p.kv_heads), p.pieces.count);
  for (int i = 0; i < p.pieces.count; ++i) {
    const ValueWork w = values_at(p.pieces, v, s.is_causal, whole_rows, i);
    for (int unit = w.first; unit < w.end; ++unit) {
      const auto at = static_cast<std::size_t>(w.head) * v.units + unit;
      ASSERT_LT(at, units) << what << " piece " << i;
      ASSERT_EQ(made[at], -1) << what << " piece " << i;
      made[at] = i;
    }
    auto& first = needed[static_cast<std::size_t>(work_at(p, whole_rows, i).head / shared_by)];
    first = std::min(first, i);
  }
  for (std::size_t at = 0; at < units; ++at) {
    const int head = static_cast<int>(at / v.units);
    if (head < v.first) {
      ASSERT_EQ(made[at], -1) << what << " head " << head;
    } else {
      ASSERT_GE(made[at], 0) << what << " head " << head;
      ASSERT_LT(made[at], needed[static_cast<std::size_t>(head)]) << what << " head " << head;
    }
  }
}

TEST(Sm90Work, MakesValuesInTime) {
  for (const auto& [dim, warpgroups] : {std::pair{64, 3}, {64, 4}, {128, 3}, {256, 2}}) {
    for (const int q_len : {1, 130, 700, 1030, 4096}) {
      for (const int kv_len : {1, 256, 900, 1025}) {
        for (const int heads : {8, 24, 64, 136}) {
          for (const int shared_by : {1, 8}) {
            for (const int of_group : {1, 8, 16, 24}) {
              if (of_group % shared_by != 0) continue;
              expect_values({heads, q_len, kv_len, false, 0, of_group, dim}, shared_by, warpgroups, 2);
              expect_values({heads, q_len, kv_len, true, 0, of_group, dim}, shared_by, warpgroups, 1);
              expect_values({heads, q_len, kv_len, true, kv_len - q_len, of_group, dim}, shared_by, warpgroups, 1);
              expect_values({heads, q_len, q_len, true, 0, of_group, dim}, shared_by, warpgroups, 1);
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace sage2::cuda::sm90
