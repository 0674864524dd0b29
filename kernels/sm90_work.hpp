#pragma once

#include <algorithm>

#include "kernels/sm90_tiles.hpp"
#include "reference/host_device.hpp"

/// How the Hopper kernel's work is cut into pieces, and in which order blocks take them.
namespace sage2::cuda::sm90 {

/// Heads that are worked on together: at most `limit`, and no fewer than half of it, such that the last group of `all`
/// heads is as whole as can be. With a mask a group's longest pieces come first, and a small last group would make all
/// multiprocessors wait for its own (measured: 2% of the kernel with 3 of 23 heads).
[[nodiscard]] inline int even_group(int all, int limit) {
  const auto last = [&](int heads) { return static_cast<double>((all - 1) % heads + 1) / heads; };
  int best = limit;
  for (int heads = limit; heads >= (limit + 1) / 2; --heads) {
    if (last(heads) > last(best)) best = heads;
  }
  return best;
}

/// One piece of work: query rows of one head, 64 for each warpgroup that takes part.
struct Work {
  int head;   ///< over batch and heads
  int row;    ///< first query row
  int end;    ///< behind the last one
  int tiles;  ///< tiles_seen by its rows
};

/// Whole pieces have 64 rows for each of a block's `warpgroups`. Where there are fewer than multiprocessors, or few
/// more than a multiple of them, the last ones are cut, to one warpgroup's rows if need be: the last round of work is
/// shorter then, or the only one uses more multiprocessors. With a mask only the latter is done, since the last pieces
/// are short anyway; neither where warpgroups do not skip tiles that are not theirs (`skips`).
[[nodiscard]] inline Pieces cut(const AttentionParams& p, int warpgroups, bool skips, int multiprocessors) {
  const auto blocks = [&](int rows) { return p.batch * p.q_heads * ((p.q_len + rows - 1) / rows); };
  const int all = blocks(warpgroups * kTileRows);
  const Pieces uncut{.count = all, .whole = all, .rows = warpgroups * kTileRows};
  const int last = all % multiprocessors;
  if (!skips || last == 0 || (p.is_causal != 0 && all > multiprocessors)) return uncut;
  int cuts = warpgroups;
  while (warpgroups % cuts != 0 || last * cuts > multiprocessors) --cuts;
  if (cuts == 1) return uncut;
  const int rows = warpgroups / cuts * kTileRows;
  if (p.is_causal != 0) return {.count = blocks(rows), .whole = 0, .rows = rows};
  return {.count = all - last + last * cuts, .whole = all - last, .rows = rows};
}

/// Key tiles that the last of rows row .. end - 1 sees, and so all of them together; 0 where there are no such rows.
[[nodiscard]] SAGE2_HOST_DEVICE inline int tiles_seen(const AttentionParams& p, int row, int end) {
  int visible = row < end ? p.kv_len : 0;
  if (p.is_causal != 0) visible = std::min(visible, end + p.causal_shift);
  return visible > 0 ? (visible + kTileKeys - 1) / kTileKeys : 0;
}

/// Piece `index` of p.pieces, in the order they are handed out; `whole_rows`: of a whole one. Without a mask head by
/// head; with one the longest first, within groups of heads whose K and V fit into L2 together. A piece behind the last
/// row of its head has no tiles.
[[nodiscard]] SAGE2_HOST_DEVICE inline Work work_at(const AttentionParams& p, int whole_rows, int index) {
  const Pieces& pieces = p.pieces;
  const int rows = index < pieces.whole ? whole_rows : pieces.rows;
  Work w{};
  if (p.is_causal != 0) {
    const int blocks = (p.q_len + rows - 1) / rows;
    const int per_group = blocks * p.heads_per_group;
    const int first = index / per_group * p.heads_per_group;
    const int inside = index % per_group;
    const int width = std::min(p.heads_per_group, p.batch * p.q_heads - first);
    w.head = first + inside % width;
    w.row = (blocks - 1 - inside / width) * rows;
  } else {
    const int blocks = (p.q_len + whole_rows - 1) / whole_rows;
    const int beyond = std::max(0, index - pieces.whole);
    const int cuts = whole_rows / rows;
    const int block = std::min(index, pieces.whole) + beyond / cuts;
    w.head = block / blocks;
    w.row = block % blocks * whole_rows + beyond % cuts * rows;
  }
  w.end = std::min(w.row + rows, p.q_len);
  w.tiles = tiles_seen(p, w.row, w.end);
  return w;
}

/// Units of V, each unit_keys of a head, whose codes are made beside a piece of work: first .. end - 1, counted
/// from the first one of head `head` over batch and key/value heads.
struct ValueWork {
  int head, first, end;
};

/// Values::groups_ahead, groups of heads whose codes of V are given: beside one of them those of the next, or of the
/// one after it, are made. With a mask the longest pieces come first in a group, so one large group is ahead.
[[nodiscard]] inline int groups_ahead(bool is_causal) {
  return is_causal ? 1 : 2;
}

/// How codes of V are shared out: while a group of heads_per_group query heads is worked on, those of the group that is
/// groups_ahead further are made, so that they are there when they are needed; beside all pieces, with a mask beside
/// the longer ones. `whole_rows` as for work_at, p.pieces as `cut` says.
[[nodiscard]] inline ValueShares shares(const AttentionParams& p, int whole_rows) {
  constexpr int kShort = 200;  // pieces, one and a half rounds of 132 multiprocessors
  const int rows = p.is_causal != 0 && p.pieces.whole == 0 ? p.pieces.rows : whole_rows;
  const int pieces = (p.q_len + rows - 1) / rows * p.heads_per_group;
  const int heads = p.heads_per_group / (p.q_heads / p.kv_heads);
  return {.pieces = pieces,
          .taking_part = p.is_causal != 0 ? std::max(pieces - kShort, (pieces + 1) / 2) : pieces,
          .heads = heads,
          .first = p.values.groups_ahead * heads,
          .units = p.k_tiles * (kTileKeys / unit_keys(padded_head_dim(p.head_dim))),
          .all_heads = p.batch * p.kv_heads};
}

/// What is made beside piece `index`.
[[nodiscard]] SAGE2_HOST_DEVICE inline ValueWork values_at(const Pieces& pieces, const ValueShares& s, bool is_causal,
                                                           int whole_rows, int index) {
  if (!is_causal && index > pieces.whole) {
    // A piece that was cut counts once.
    const int cuts = whole_rows / pieces.rows;
    if ((index - pieces.whole) % cuts != 0) return {};
    index = pieces.whole + (index - pieces.whole) / cuts;
  }
  const int group = index / s.pieces;
  const int inside = index - group * s.pieces;
  const int first = s.first + group * s.heads;
  const int units = std::min(s.heads, s.all_heads - first) * s.units;
  if (units <= 0 || inside >= s.taking_part) return {};
  return {first, inside * units / s.taking_part, (inside + 1) * units / s.taking_part};
}

}  // namespace sage2::cuda::sm90
