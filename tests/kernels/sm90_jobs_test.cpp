#include "kernels/sm90_jobs.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "fmt/core.h"

/// How the preparation is cut into jobs, counted here row by row, on the CPU.
namespace sage2::cuda::sm90 {
namespace {

struct Shape {
  int kv_count, group, q_len, kv_len, dim;
  bool smooth_q, smooth_k, q_codes;
  int v_heads;  ///< at most kv_count
};

PrepareParams params_of(const Shape& s) {
  PrepareParams p{};
  p.options.smooth_q = s.smooth_q;
  p.options.smooth_k = s.smooth_k;
  p.kv_count = s.kv_count;
  p.group = s.group;
  p.q_count = s.kv_count * s.group;
  p.q_len = s.q_len;
  p.kv_len = s.kv_len;
  p.q_codes = s.q_codes;
  p.v_heads = s.v_heads;
  plan_jobs(p, s.dim);
  return p;
}

/// What one kind of jobs has done: how often each row, and the first and the last job of each head.
struct Done {
  std::vector<int> rows, first, last;
};

/// Every row that needs it is in one job of a kind, and whatever waits for another job has a later number: a block that
/// waits can only wait for blocks that do not wait for it.
void expect_order(const Shape& s) {
  const auto p = params_of(s);
  const auto what = fmt::format("{} heads x {}, {} x {} x {}, smooth Q {} K {}, Q {}, V of {}", s.kv_count, s.group,
                                s.q_len, s.kv_len, s.dim, s.smooth_q, s.smooth_k, s.q_codes, s.v_heads);
  const auto length = [&](JobKind kind) { return is_query(kind) ? s.q_len : s.kv_len; };
  std::map<JobKind, Done> done;
  for (const auto kind : {JobKind::k_statistics, JobKind::v_statistics, JobKind::q_codes, JobKind::q_means,
                          JobKind::k_codes, JobKind::v_codes}) {
    const auto heads = static_cast<std::size_t>(is_query(kind) ? p.q_count : p.kv_count);
    done[kind] = {std::vector<int>(heads * length(kind), 0), std::vector<int>(heads, 1 << 30),
                  std::vector<int>(heads, -1)};
  }
  const auto all = static_cast<int>(all_jobs(p));
  for (int i = 0; i < all; ++i) {
    const Job job = job_of(p, i);
    ASSERT_NE(job.kind, JobKind::none) << what << " job " << i;
    Done& of = done[job.kind];
    ASSERT_TRUE(job.head >= 0 && job.head < static_cast<int>(of.first.size())) << what << " job " << i;
    ASSERT_TRUE(job.first >= 0 && job.first < job.end && job.end <= length(job.kind)) << what << " job " << i;
    ASSERT_EQ(job.first % kJobRows, 0) << what << " job " << i;
    for (int row = job.first; row < job.end; ++row) {
      ++of.rows[static_cast<std::size_t>(job.head) * length(job.kind) + row];
    }
    of.first[job.head] = std::min(of.first[job.head], i);
    of.last[job.head] = i;
  }
  for (int i = all; i < all + 600; ++i) ASSERT_EQ(job_of(p, i).kind, JobKind::none) << what << " job " << i;

  const auto expect_rows = [&](JobKind kind, int heads) {
    const auto& rows = done[kind].rows;
    const auto wanted = static_cast<std::size_t>(heads) * length(kind);
    EXPECT_EQ(std::count(rows.begin(), rows.end(), 1), wanted) << what << " kind " << static_cast<int>(kind);
    EXPECT_EQ(std::count(rows.begin(), rows.begin() + wanted, 1), wanted) << what << " kind " << static_cast<int>(kind);
    EXPECT_EQ(std::count(rows.begin(), rows.end(), 0), rows.size() - wanted) << what;
  };
  expect_rows(JobKind::k_statistics, s.smooth_k ? s.kv_count : 0);
  expect_rows(JobKind::v_statistics, s.kv_count);
  expect_rows(JobKind::q_codes, s.q_codes ? p.q_count : 0);
  expect_rows(JobKind::q_means, s.smooth_q && !s.q_codes ? p.q_count : 0);
  expect_rows(JobKind::k_codes, s.kv_count);
  expect_rows(JobKind::v_codes, s.v_heads);

  const auto expect_before = [&](JobKind kind, int head, JobKind later, int later_head) {
    EXPECT_LT(done[kind].last[head], done[later].first[later_head])
        << what << " kinds " << static_cast<int>(kind) << ", " << static_cast<int>(later) << " head " << head;
  };
  for (int head = 0; head < s.kv_count; ++head) {
    expect_before(JobKind::k_statistics, head, JobKind::k_codes, head);
    expect_before(JobKind::v_statistics, head, JobKind::v_codes, head);
    for (int q = head * s.group; s.smooth_q && q < (head + 1) * s.group; ++q) {
      const auto queries = s.q_codes ? JobKind::q_codes : JobKind::q_means;
      expect_before(queries, q, JobKind::k_codes, head);
    }
  }
}

TEST(Sm90Jobs, EveryRowOnceAndInOrder) {
  for (const int kv_count : {1, 3, 40}) {
    for (const int group : {1, 4}) {
      for (const auto& [q_len, kv_len] : {std::pair{1, 1}, {130, 700}, {1000, 129}, {2100, 2048}, {300, 4300}}) {
        for (const int dim : {64, 128, 256}) {
          for (const bool smooth_q : {false, true}) {
            for (const bool smooth_k : {false, true}) {
              for (const bool q_codes : {false, true}) {
                for (const int v_heads : {kv_count, (kv_count + 3) / 4}) {
                  expect_order({kv_count, group, q_len, kv_len, dim, smooth_q, smooth_k, q_codes, v_heads});
                }
              }
            }
          }
        }
      }
    }
  }
}

/// The second look at K is behind as many jobs as are under way at once, and not behind all of them.
TEST(Sm90Jobs, SecondLookFollowsTheFirst) {
  for (const int dim : {64, 128, 256}) {
    for (const bool smooth_q : {false, true}) {
      for (const int kv_len : {4096, 8192}) {
        for (const int v_heads : {16, 256}) {
          const auto p = params_of({256, 1, kv_len, kv_len, dim, smooth_q, true, false, v_heads});
          const int each = job_counts(p).all();
          const int wide = v_heads == 256 && kv_len > 4096 ? 850 : 600;
          EXPECT_GE(p.lag * each, dim == 64 ? 1600 : (dim == 128 ? 950 : wide)) << dim;
          EXPECT_LE(p.lag * each, 2100) << dim;
        }
      }
    }
  }
}

}  // namespace
}  // namespace sage2::cuda::sm90
