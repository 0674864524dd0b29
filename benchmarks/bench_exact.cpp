#include <omp.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "Eigen/Core"
#include "benchmark/benchmark.h"
#include "reference/exact_attention.hpp"
#include "reference/metrics.hpp"
#include "tests/reference/problems.hpp"

/// The FP64 attention against Eigen's own DGEMM of the same multiply-adds, and the throughput of ErrorStats.
namespace sage2 {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

/// Multiply-adds a second of `threads` threads that each run `product`, of `multiply_adds`, on their own.
template <class Product>
double rate(int threads, double multiply_adds, Product product) {
  const auto start = Clock::now();
#pragma omp parallel num_threads(threads)
  product();
  return threads * multiply_adds / Seconds(Clock::now() - start).count();
}

/// Eigen's DGEMM on square matrices beyond the caches, as one would measure its rate.
double square_dgemm_rate(int threads) {
  constexpr Eigen::Index n = 1024;
  const Eigen::MatrixXd a = Eigen::MatrixXd::Random(n, n);
  const Eigen::MatrixXd b = Eigen::MatrixXd::Random(n, n);
  return rate(threads, static_cast<double>(n * n * n), [&] {
    Eigen::MatrixXd c(n, n);
    c.noalias() = a * b;
    benchmark::DoNotOptimize(c.data());
  });
}

/// Eigen's DGEMM at its best: S = Q K^T and O = P V on one pair of blocks, over and over, nothing leaving the cache.
double block_dgemm_rate(int threads, Eigen::Index dim) {
  constexpr Eigen::Index kQueries = 192;
  constexpr Eigen::Index kKeys = 128;
  constexpr int kTimes = 64;
  using RowMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Eigen::MatrixXd q = Eigen::MatrixXd::Random(kQueries, dim);
  const RowMatrix k = RowMatrix::Random(kKeys, dim);
  return rate(threads, 2.0 * kTimes * kQueries * kKeys * static_cast<double>(dim), [&] {
    Eigen::MatrixXd s(kQueries, kKeys);
    Eigen::MatrixXd o = Eigen::MatrixXd::Zero(kQueries, dim);
    for (int i = 0; i < kTimes; ++i) {
      s.noalias() = q * k.transpose();
      o.noalias() += s * k;
    }
    benchmark::DoNotOptimize(o.data());
  });
}

/// Arguments: sequence length, head dim, causal, threads.
void exact(benchmark::State& state) {
  const auto length = static_cast<std::size_t>(state.range(0));
  const auto dim = static_cast<std::size_t>(state.range(1));
  const bool is_causal = state.range(2) != 0;
  const int threads = static_cast<int>(state.range(3));
  const HeadProblem problem =
      testing::random_problem({.q_len = length, .kv_len = length, .head_dim = dim, .is_causal = is_causal});
  const double keys = is_causal ? 0.5 * static_cast<double>(length + 1) : static_cast<double>(length);
  const double products = 2 * static_cast<double>(length * dim) * keys;

  const int threads_before = omp_get_max_threads();
  omp_set_num_threads(threads);
  // All are measured side by side, so that what disturbs the machine disturbs all; the best of each counts.
  double attention = 0;
  double square = 0;
  double block = 0;
  for (auto _ : state) {
    const auto start = Clock::now();
    const ExactOutput out = exact_attention(problem);
    benchmark::DoNotOptimize(out.o.data());
    const double seconds = Seconds(Clock::now() - start).count();
    state.SetIterationTime(seconds);
    attention = std::max(attention, products / seconds);
    square = std::max(square, square_dgemm_rate(threads));
    block = std::max(block, block_dgemm_rate(threads, static_cast<Eigen::Index>(dim)));
  }
  omp_set_num_threads(threads_before);
  state.counters["gflops"] = 2e-9 * attention;
  state.counters["of_dgemm"] = attention / square;
  state.counters["of_block_dgemm"] = attention / block;
}
BENCHMARK(exact)
    ->ArgNames({"n", "d", "causal", "threads"})
    ->ArgsProduct({{1024, 4096}, {64, 128}, {0, 1}, {1, 2}})
    ->UseManualTime()
    ->MinTime(1.0)
    ->Unit(benchmark::kMillisecond);

/// Argument: head dim, the length of a row. One iteration adds 65,536 elements.
void error_stats(benchmark::State& state) {
  constexpr std::size_t kElements = 65536;
  const auto dim = static_cast<std::size_t>(state.range(0));
  testing::Random random(1);
  std::vector<double> reference(kElements);
  std::vector<float> output(kElements);
  for (std::size_t i = 0; i < kElements; ++i) {
    reference[i] = testing::gaussian(random);
    output[i] = static_cast<float>(reference[i]) + 0.03F * testing::gaussian(random);
  }
  for (auto _ : state) {
    ErrorStats stats;
    for (std::size_t i = 0; i < kElements; i += dim) {
      stats.add_row({reference.data() + i, dim}, {output.data() + i, dim});
    }
    benchmark::DoNotOptimize(stats.metrics());
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * kElements));
}
BENCHMARK(error_stats)->ArgName("d")->Arg(64)->Arg(128)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sage2
