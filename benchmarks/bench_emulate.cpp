#include <omp.h>

#include <cstdio>
#include <map>
#include <string>

#include "benchmark/benchmark.h"
#include "datasets/capture.hpp"
#include "nlohmann/json.hpp"
#include "reference/emulate.hpp"
#include "tests/reports/python.hpp"

/// The emulation of one head of the bundled capture (N = 1024, d = 64), on one core, against plain NumPy of the same
/// arithmetic on one core, timed in the same run (tests/python/plain_numpy.py --time).
namespace sage2 {
namespace {

const std::string kCapture = std::string(SAGE2_SOURCE_DIR) + "/datasets/samples/dit.h5";

HeadProblem first_head() {
  const CaptureReader reader(kCapture);
  return reader.read_problem(reader.describe(reader.cells().front()), 0, 0);
}

/// Best time of NumPy for a head of its per-thread INT4 variant, in seconds; 0 where there is no NumPy.
double numpy_seconds() {
  static const double seconds = [] {
    const auto python = test::python_with("numpy, h5py");
    if (python.empty()) return 0.0;
    const auto script = std::string(SAGE2_SOURCE_DIR) + "/tests/python/plain_numpy.py";
    const auto out = test::run({python, script, kCapture, "--layers", "0", "--time"});
    if (out.status != 0) return 0.0;
    return nlohmann::json::parse(out.output).at("sage2-4b:pv_accum=exact").get<double>() / 1e3;
  }();
  return seconds;
}

void emulate_head(benchmark::State& state, const std::string& text, int threads) {
  const auto problem = first_head();
  const auto variant = parse_variant(text);
  const double numpy = numpy_seconds();
  omp_set_num_threads(threads);
  double best = 1e9;
  for (auto _ : state) {
    const double start = omp_get_wtime();
    benchmark::DoNotOptimize(emulate(problem, variant).o.data.data());
    best = std::min(best, omp_get_wtime() - start);
  }
  if (numpy > 0) state.counters["times_numpy"] = numpy / best;
  state.counters["best_ms"] = best * 1e3;
}

void read_capture(benchmark::State& state) {
  const CaptureReader reader(kCapture);
  const auto cell = reader.describe(reader.cells().front());
  for (auto _ : state) benchmark::DoNotOptimize(reader.read_problem(cell, 0, 0).q.data.data());
}

const bool kRegistered = [] {
  for (const char* text :
       {"sage2-4b:pv_accum=exact", "sage2-8b:pv_accum=exact", "sage2-4b", "sage2-8b", "sage2-4b:pv_accum=fp32",
        "sage2pp-4b", "sage2-4b@hopper", "sage2-4b@blackwell", "sage1", "fp16", "fa3-fp8", "exact"}) {
    for (int threads = 1; threads <= omp_get_max_threads(); threads *= 2) {
      const auto name = std::string("emulate/") + text + "/threads:" + std::to_string(threads);
      benchmark::RegisterBenchmark(name.c_str(), emulate_head, text, threads)
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
    }
  }
  benchmark::RegisterBenchmark("read_problem/gzip", read_capture)->Unit(benchmark::kMillisecond);
  return true;
}();

}  // namespace
}  // namespace sage2
