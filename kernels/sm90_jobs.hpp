#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/sm90_prepare.hpp"
#include "reference/host_device.hpp"

/// How the preparation is cut into jobs, and in which order its blocks take them.
namespace sage2::cuda::sm90 {

inline constexpr int kJobRows = 128;   ///< rows of a stage, and of Q, K or V that a quantising job takes
inline constexpr int kMeanGroup = 32;  ///< blocks of queries whose means lie together

struct PrepareParams {
  TensorView q, k, v;
  PrepareOptions options;
  Workspace at;
  std::uint8_t* base;
  int q_count, kv_count, group;  ///< group: query heads that share a key/value head
  int q_len, kv_len, head_dim;
  int q_tiles, k_tiles, q_blocks, chunks;  ///< chunks: statistics jobs of a head
  int q_groups;                            ///< of kMeanGroup blocks of a query head
  int statistics_rows;
  int q_jobs, q_job_rows;       ///< of a query head
  int lag;                      ///< heads between the first look at K and V and the second
  int group_heads;              ///< query heads of a group, where the attention kernel makes codes of V
  int v_heads;                  ///< heads whose codes of V are written: all, or those of the first groups
  float sm_scale, delta_scale;  ///< the latter for base 2
  int is_causal, causal_shift;
  bool q_codes;  ///< are written
  DType dtype;
  float top;                    ///< largest code of Q and K
  bool wide_q, wide_k, wide_v;  ///< the copy engine can read the tensor
};

/// Rows of a job that gathers means and maxima of K or V. Measured, and so is the next.
constexpr int statistics_rows(int dim, int kv_len, bool smooth_q) {
  if (dim == 256) return kv_len <= 4096 ? 256 : 512;
  return smooth_q ? 1024 : 512;
}
/// Jobs between the first look at K and V and the second, when the first is surely over, and no more: then L2 still has
/// the rows. `both`: V is looked at twice, too.
constexpr int surely_over(int dim, int kv_len, bool smooth_q, bool both) {
  if (dim == 64) return smooth_q ? 1600 : 1800;
  if (dim == 128) return 950;
  return both && kv_len > 4096 ? 850 : 600;
}
/// Blocks of queries whose means one job takes.
constexpr int mean_blocks(int dim) {
  return dim == 64 ? 8 : (dim == 128 ? 4 : 2);
}

enum class JobKind : int { k_statistics, v_statistics, q_codes, q_means, k_codes, v_codes, none };
[[nodiscard]] SAGE2_HOST_DEVICE inline bool is_query(JobKind kind) {
  return kind == JobKind::q_codes || kind == JobKind::q_means;
}
[[nodiscard]] SAGE2_HOST_DEVICE inline bool is_value(JobKind kind) {
  return kind == JobKind::v_statistics || kind == JobKind::v_codes;
}

/// The key that dS is relative to: a row of dS may be larger by a constant, which the softmax cancels, and with a key
/// subtracted it is as small as the keys' differences. K's mean would do as well, but the queries' means, which come
/// with their products with it, would have to wait for it.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr int reference_key(int kv_len) {
  return kv_len / 2;
}

/// Jobs of one head: first the statistics of K and V and, where something of them is wanted, all of its queries; and
/// `lag` heads later the codes of K and V, while these are still in L2. Where the attention kernel makes the other
/// heads' codes of V, those of the first heads come last.
struct JobCounts {
  int k_statistics, v_statistics, queries, tiles, v_tiles;
  [[nodiscard]] SAGE2_HOST_DEVICE int early() const { return k_statistics + v_statistics + queries; }
  [[nodiscard]] SAGE2_HOST_DEVICE int late() const { return tiles + v_tiles; }
  [[nodiscard]] SAGE2_HOST_DEVICE int all() const { return early() + late(); }
};

[[nodiscard]] SAGE2_HOST_DEVICE inline JobCounts job_counts(const PrepareParams& p) {
  return {p.options.smooth_k ? p.chunks : 0, p.chunks, p.group * p.q_jobs, p.k_tiles,
          p.v_heads == p.kv_count ? p.k_tiles : 0};
}
[[nodiscard]] SAGE2_HOST_DEVICE inline std::int64_t all_jobs(const PrepareParams& p) {
  const JobCounts jobs = job_counts(p);
  const std::int64_t in_turn = static_cast<std::int64_t>(p.kv_count) * jobs.all();
  return in_turn + (jobs.v_tiles == 0 ? p.v_heads * jobs.tiles : 0);
}

/// Rows first .. end - 1 of a head.
struct Job {
  JobKind kind;
  int head, first, end;
};

/// Job `index` in the order they are taken; behind the last one, JobKind::none.
[[nodiscard]] SAGE2_HOST_DEVICE inline Job job_of(const PrepareParams& p, int index) {
  const JobCounts jobs = job_counts(p);
  const auto rows = [&](JobKind kind, int from, int number, int each, int length) {
    return Job{kind, from, number * each, std::min((number + 1) * each, length)};
  };
  // Turn t has the early jobs of head t and the late ones of head t - lag, as far as there are such heads: so it has
  // more or fewer jobs from these turns on.
  const int ends[] = {p.lag, p.kv_count, p.kv_count + p.lag};
  int turn = 0;
  for (int phase = 0; phase < 3; ++phase) {
    const int early = phase < 2 ? jobs.early() : 0;
    const int each = early + (phase > 0 ? jobs.late() : 0);
    const int all = (ends[phase] - turn) * each;
    if (index >= all) {
      index -= all;
      turn = ends[phase];
      continue;
    }
    turn += index / each;
    int job = index % each;
    if (job < early) {
      if (job < jobs.k_statistics) return rows(JobKind::k_statistics, turn, job, p.statistics_rows, p.kv_len);
      job -= jobs.k_statistics;
      if (job < jobs.v_statistics) return rows(JobKind::v_statistics, turn, job, p.statistics_rows, p.kv_len);
      job -= jobs.v_statistics;
      const int inside = job / p.q_jobs;
      const JobKind kind = p.q_codes ? JobKind::q_codes : JobKind::q_means;
      return rows(kind, turn * p.group + inside, job - inside * p.q_jobs, p.q_job_rows, p.q_len);
    }
    job -= early;
    if (job < jobs.tiles) return rows(JobKind::k_codes, turn - p.lag, job, kJobRows, p.kv_len);
    return rows(JobKind::v_codes, turn - p.lag, job - jobs.tiles, kJobRows, p.kv_len);
  }
  const int head = index / jobs.tiles;
  if (jobs.v_tiles > 0 || head >= p.v_heads) return {JobKind::none, 0, 0, 0};
  return rows(JobKind::v_codes, head, index - head * jobs.tiles, kJobRows, p.kv_len);
}

/// Cuts a problem into tiles, blocks and jobs; `dim`: padded_head_dim. Counts and lengths, `options`, `q_codes` and
/// `v_heads` must be there.
inline void plan_jobs(PrepareParams& p, int dim) {
  p.q_tiles = (p.q_len + kTileRows - 1) / kTileRows;
  p.k_tiles = (p.kv_len + kTileKeys - 1) / kTileKeys;
  p.q_blocks = (p.q_len + kMeanRows - 1) / kMeanRows;
  p.q_groups = (p.q_blocks + kMeanGroup - 1) / kMeanGroup;
  p.statistics_rows = statistics_rows(dim, p.kv_len, p.options.smooth_q);
  p.chunks = (p.kv_len + p.statistics_rows - 1) / p.statistics_rows;
  p.q_job_rows = p.q_codes ? kJobRows : mean_blocks(dim) * kMeanRows;
  p.q_jobs = p.q_codes || p.options.smooth_q ? (p.q_len + p.q_job_rows - 1) / p.q_job_rows : 0;
  const JobCounts jobs = job_counts(p);
  const int between = surely_over(dim, p.kv_len, p.options.smooth_q, p.v_heads == p.kv_count);
  p.lag = std::min(p.kv_count, 1 + between / jobs.all());
}

}  // namespace sage2::cuda::sm90
