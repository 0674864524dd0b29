#include <benchmark/benchmark.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>

#include "reports/detail_tables.hpp"
#include "reports/html_page.hpp"
#include "reports/plot_data.hpp"
#include "reports/report_document.hpp"

/// A report of 2,100 cells (42 layers x 50 timesteps) under 12 variants with 24 heads each: 25,200 records and 604,800
/// head rows, from the files on disk.
namespace {

using namespace sage2;
namespace fs = std::filesystem;

constexpr int kLayers = 42;
constexpr int kSteps = 50;
constexpr int kVariants = 12;
constexpr int kHeads = 24;

ErrorMetrics random_metrics(std::mt19937_64& rng, double error) {
  std::lognormal_distribution<double> factor(0, 0.2);
  ErrorMetrics m;
  m.rel_l1 = error * factor(rng);
  m.cos_sim = 1 - m.rel_l1 * m.rel_l1 / 2;
  m.rmse = error * factor(rng) / 3;
  m.p50 = m.rmse / 2;
  m.p90 = 2 * m.rmse;
  m.p99 = 3 * m.rmse * factor(rng);
  m.p999 = 5 * m.rmse * factor(rng);
  m.max_abs = 20 * m.rmse * factor(rng);
  return m;
}

Record random_record(std::mt19937_64& rng, int layer, int step, int variant, double hardness) {
  Record r;
  r.key = std::to_string(rng());
  r.capture = "bench.h5";
  r.model = "benchmark";
  r.layer = layer;
  r.layer_name = "blocks." + std::to_string(layer) + ".attn";
  r.timestep = step;
  r.variant = r.name = "sage2-4b:variant=" + std::to_string(variant);
  r.device = "cpu";
  r.engine = "emulated";
  r.shape = {1, kHeads, kHeads, 17776, 17776, 64, false, 0.125};
  const double error = hardness * (1 + 0.2 * variant);
  r.metrics = random_metrics(rng, error);
  const double n = 17776.0 * 64 * kHeads;
  r.sums = {n, n, n * r.metrics.cos_sim, n * r.metrics.rel_l1, n, n * r.metrics.rmse * r.metrics.rmse, n};
  for (int h = 0; h < kHeads; ++h) r.heads.push_back({0, h, random_metrics(rng, error)});
  return r;
}

/// Written once for all benchmarks, removed at the end.
class BenchRun {
 public:
  BenchRun() : folder_(fs::temp_directory_path() / "sage2-bench-report") {
    fs::create_directories(folder_);
    std::mt19937_64 rng(1);
    std::lognormal_distribution<double> hardness(-3, 0.6);
    RunInfo info;
    info.command = {"sage2-eval", "eval"};
    info.selection = nlohmann::json::object();
    SuiteInfo suite{"granularity", "A suite of all variants", {}};
    std::ofstream records(folder_ / "records.jsonl");
    for (int layer = 0; layer < kLayers; ++layer) {
      for (int step = 0; step < kSteps; ++step) {
        const double cell = std::min(0.3, hardness(rng));
        for (int v = 0; v < kVariants; ++v) {
          const auto r = random_record(rng, layer, step, v, cell);
          if (layer == 0 && step == 0) suite.rows.push_back({"row " + std::to_string(v), r.variant});
          records << nlohmann::json(r).dump() << '\n';
        }
      }
    }
    info.variants = suite.rows;
    info.suites = {suite};
    std::ofstream(folder_ / "run.json") << nlohmann::json(info).dump();
  }
  ~BenchRun() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  BenchRun(const BenchRun&) = delete;
  BenchRun& operator=(const BenchRun&) = delete;
  [[nodiscard]] const fs::path& folder() const { return folder_; }

 private:
  fs::path folder_;
};

const fs::path& bench_run() {
  static const BenchRun run;
  return run.folder();
}

void load(benchmark::State& state) {
  const auto& folder = bench_run();
  for (auto _ : state) benchmark::DoNotOptimize(load_report({folder}, {}));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(fs::file_size(folder / "records.jsonl")));
}

/// What a user waits for: records on disk to every table in Markdown, LaTeX, CSV and JSON.
void all_tables(benchmark::State& state) {
  const auto& folder = bench_run();
  for (auto _ : state) {
    const auto report = load_report({folder}, {});
    std::size_t bytes = report_markdown(report, {}).size() + report_json(report).dump(1).size();
    for (const auto& placed : report_tables(report)) {
      bytes += to_latex(placed.table.printed).size() + to_csv(placed.table.full).size();
    }
    for (const auto& model : report.models) bytes += cells_csv(report, model).size();
    benchmark::DoNotOptimize(bytes);
  }
}

void page(benchmark::State& state) {
  const auto report = load_report({bench_run()}, {});
  std::size_t bytes = 0;
  for (auto _ : state) bytes = html_page(report).size();
  state.counters["MiB"] = static_cast<double>(bytes) / (1 << 20);
}

void plot_numbers(benchmark::State& state) {
  const auto report = load_report({bench_run()}, {});
  for (auto _ : state) benchmark::DoNotOptimize(plot_data(report));
}

BENCHMARK(load)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(all_tables)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(page)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(plot_numbers)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
