#include <benchmark/benchmark.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>

#include "reports/rank.hpp"

/// Ranking 2,100 cells (42 layers x 50 timesteps) of 8 samples and 4 variants, on one core. Parsing is measured apart.
namespace {

using namespace sage2;

const std::vector<std::string> kVariants{"sage2-4b", "sage2-8b", "sage1", "fp16"};

Record make_record(std::mt19937_64& rng, int layer, int timestep, int sample, std::size_t v, double cell) {
  Record r;
  r.key = std::to_string(rng());
  r.capture = "bench.h5";
  r.model = "benchmark";
  r.layer = layer;
  r.layer_name = "blocks." + std::to_string(layer) + ".attn";
  r.timestep = timestep;
  r.sample = sample;
  r.variant = r.name = kVariants[v];
  r.device = "cpu";
  r.engine = "emulated";
  r.shape = {1, 24, 24, 4096, 4096, 128, false, 0.088};
  const double e = cell * std::lognormal_distribution<double>(0, 0.2)(rng) / std::pow(8.0, static_cast<double>(v));
  const double n = 24.0 * 4096 * 128;
  r.sums = {n, n, n * (1 - e * e / 2), n * e, n, n * e * e, n};
  r.metrics = ratios(r.sums);
  for (int h = 0; h < 24; ++h) r.heads.push_back({0, h, r.metrics});
  return r;
}

Run make_run() {
  std::mt19937_64 rng(1);
  std::lognormal_distribution<double> hardness(-3, 1);
  Run run;
  run.folder = "bench";
  for (int layer = 0; layer < 42; ++layer) {
    for (int timestep = 0; timestep < 50; ++timestep) {
      const double cell = std::min(0.9, hardness(rng));
      for (int sample = 0; sample < 8; ++sample) {
        for (std::size_t v = 0; v < kVariants.size(); ++v) {
          run.records.push_back(make_record(rng, layer, timestep, sample, v, cell));
        }
      }
    }
  }
  return run;
}

OperandBits bits(const std::string& variant) {
  if (variant == "sage2-4b") return {4, 8};
  if (variant == "sage2-8b") return {8, 8};
  return variant == "sage1" ? OperandBits{8, 16} : OperandBits{16, 16};
}

/// Everything `sage2-eval rank` does with parsed records: pooling, the map, the bootstrap, curve, summary.
void rank(benchmark::State& state, std::size_t variants, Rule rule) {
  const std::vector<Run> runs{make_run()};
  std::vector<VariantId> wanted;
  for (std::size_t v = 0; v < variants; ++v) wanted.push_back({kVariants[v], kVariants[v]});
  for (auto _ : state) {
    const CellTable table = pool_cells(runs, wanted);
    const Costs costs = modelled_costs(table, bits);
    RankRequest request;
    request.map.rule = rule;
    if (rule == Rule::max_cost) request.map.value = map_total(costs.grid, std::vector<std::size_t>(2100, 1));
    benchmark::DoNotOptimize(rank_cells(table, costs, request));
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(runs[0].records.size()));
}

void rank_papers_rule(benchmark::State& state) {
  rank(state, 2, Rule::fraction);
}
void rank_papers_rule_all_variants(benchmark::State& state) {
  rank(state, 4, Rule::fraction);
}
void rank_budget_all_variants(benchmark::State& state) {
  rank(state, 4, Rule::max_cost);
}

void parse_records(benchmark::State& state) {
  const auto folder = std::filesystem::temp_directory_path() / "sage2_bench_rank";
  std::filesystem::create_directories(folder);
  const Run run = make_run();
  std::ofstream(folder / "run.json") << nlohmann::json(run.info);
  {
    std::ofstream out(folder / "records.jsonl");
    for (const auto& r : run.records) out << nlohmann::json(r) << '\n';
  }
  for (auto _ : state) benchmark::DoNotOptimize(read_run(folder).records.size());
  state.SetBytesProcessed(state.iterations() *
                          static_cast<std::int64_t>(std::filesystem::file_size(folder / "records.jsonl")));
  std::filesystem::remove_all(folder);
}

BENCHMARK(rank_papers_rule)->Unit(benchmark::kMillisecond);
BENCHMARK(rank_papers_rule_all_variants)->Unit(benchmark::kMillisecond);
BENCHMARK(rank_budget_all_variants)->Unit(benchmark::kMillisecond);
BENCHMARK(parse_records)->Unit(benchmark::kMillisecond);

}  // namespace
