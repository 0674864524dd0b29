#include <omp.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "harness/capture_flags.hpp"
#include "harness/command.hpp"
#include "harness/evaluate.hpp"
#include "harness/progress.hpp"
#include "harness/run_writer.hpp"
#include "harness/summarise_run.hpp"
#include "harness/version.hpp"
#include "reports/map.hpp"

namespace sage2 {
namespace {

struct EvalOptions {
  std::vector<std::string> captures;
  std::vector<std::string> variants, suites;
  std::string device = "auto";
  std::string out;
  std::string layers, timesteps, samples, heads;
  std::size_t queries = 0;
  std::uint64_t seed = 0;
  int threads = 0;
  std::string shard;
  std::string map;
  bool json = false;
  ReaderFlags reader;
};

/// What the run computes: every variant once, and the suites that name them.
struct Wanted {
  std::vector<NamedVariant> variants;
  std::vector<SuiteInfo> suites;
};

void want(Wanted& wanted, const std::string& name, const Variant& variant) {
  const auto spelling = canonical(variant);
  const auto same = [&](const NamedVariant& v) { return v.canonical == spelling; };
  if (std::none_of(wanted.variants.begin(), wanted.variants.end(), same)) {
    wanted.variants.push_back({name, spelling, variant});
  }
}

Wanted wanted_variants(const EvalOptions& options) {
  Wanted wanted;
  for (const auto& list : options.variants) {
    for (const auto& text : split_variants(list)) want(wanted, text, parse_variant(text));
  }
  for (const auto& name : options.suites) {
    for (const auto& suite : find_suites(name)) {
      SuiteInfo info{suite.name, suite.title, {}};
      for (const auto& row : suite.rows) {
        const auto spelling = canonical(row.variant);
        want(wanted, spelling, row.variant);
        info.rows.push_back({row.label, spelling});
      }
      const auto same = [&](const SuiteInfo& s) { return s.name == info.name && s.title == info.title; };
      if (std::none_of(wanted.suites.begin(), wanted.suites.end(), same)) wanted.suites.push_back(std::move(info));
    }
  }
  if (wanted.variants.empty() && options.map.empty()) {
    throw UsageError("eval: nothing to evaluate: give --variants, --suite or --map");
  }
  return wanted;
}

/// What one cell needs: everything asked for, and what the adaptive map runs there.
std::vector<NamedVariant> variants_of(const Wanted& wanted, const std::optional<AdaptiveMap>& map, const CellId& id) {
  Wanted cell = wanted;
  if (map) {
    const auto answer = look_up(*map, id.layer, id.timestep);
    want(cell, answer.name, parse_variant(answer.variant));
  }
  return std::move(cell.variants);
}

/// "i/n": this process takes the cells whose content hash falls into part i (from 0) of n.
struct Shard {
  std::uint64_t index = 0, count = 1;
  explicit Shard(const std::string& text) {
    if (text.empty()) return;
    const auto slash = text.find('/');
    try {
      if (slash == std::string::npos) throw std::invalid_argument("no slash");
      index = std::stoull(text.substr(0, slash));
      count = std::stoull(text.substr(slash + 1));
    } catch (const std::logic_error&) {
      count = 0;
    }
    if (index >= count) throw UsageError(fmt::format("--shard: expected i/n with 0 <= i < n, found '{}'", text));
  }
  [[nodiscard]] bool takes(const std::string& content_hash) const {
    return std::stoull(content_hash.substr(0, 15), nullptr, 16) % count == index;
  }
};

RunInfo describe_run(const EvalOptions& options, const Wanted& wanted, const std::vector<CaptureReader>& readers) {
  RunInfo info = machine_info();
  info.command = command_line();
  info.seed = options.seed;
  for (const auto& reader : readers) {
    info.captures.push_back({reader.file().filename().string(), reader.file().string(), file_fingerprint(reader.file()),
                             reader.model(), reader.source(), std::filesystem::file_size(reader.file())});
  }
  for (const auto& v : wanted.variants) info.variants.push_back({v.name, v.canonical});
  info.suites = wanted.suites;
  info.selection = {{"layers", options.layers}, {"timesteps", options.timesteps}, {"samples", options.samples},
                    {"heads", options.heads},   {"queries", options.queries},     {"shard", options.shard}};
  return info;
}

/// Evaluates one cell; what is wrong with it becomes an error record, and the run goes on.
bool evaluate_into(RunWriter& run, const CaptureReader& reader, const CellId& id,
                   const std::vector<NamedVariant>& wanted, const EvaluationPlan& plan, const Shard& shard,
                   Progress& progress, bool& worked) {
  try {
    const auto cell = reader.describe(id);
    const auto hash = content_hash(reader, cell);
    if (!shard.takes(hash)) return true;
    std::vector<NamedVariant> missing;
    for (const auto& v : wanted) {
      if (!run.has(record_key(hash, v, plan))) missing.push_back(v);
    }
    worked = !missing.empty();
    if (missing.empty()) return true;
    for (const auto& record : evaluate_cell(reader, cell, missing, plan, hash)) run.add(record);
    return true;
  } catch (const DataError& e) {
    progress.clear();
    fmt::print(stderr, "sage2-eval: {}; the cell is skipped\n", e.what());
    run.add(CellError{reader.file().filename().string(), id.layer, id.timestep, id.sample, e.what()});
    return false;
  }
}

int run_eval(const EvalOptions& options) {
  if (options.device == "cuda") {
    throw DeviceError("--device cuda: this build has no CUDA engine; use --device cpu, which emulates every chip");
  }
  if (options.threads > 0) omp_set_num_threads(options.threads);
  const auto wanted = wanted_variants(options);
  std::optional<AdaptiveMap> map;
  if (!options.map.empty()) map = read_map(options.map);
  const Shard shard(options.shard);
  const Selection selection{{options.layers, "--layers"},
                            {options.timesteps, "--timesteps"},
                            {options.samples, "--samples"},
                            {options.heads, "--heads"}};
  EvaluationPlan plan{selection.heads, std::nullopt, options.seed};
  if (options.queries > 0) plan.queries = options.queries;

  std::vector<CaptureReader> readers;
  std::vector<std::pair<std::size_t, CellId>> cells;
  for (const auto& file : options.captures) {
    readers.emplace_back(file, options.reader.options());
    for (const auto& id : select_cells(readers.back(), selection)) cells.emplace_back(readers.size() - 1, id);
  }
  RunWriter run(options.out, describe_run(options, wanted, readers));
  if (run.resumed() > 0) fmt::print(stderr, "{}: {} records are there already\n", options.out, run.resumed());

  Progress progress(cells.size());
  std::size_t failed = 0;
  std::size_t evaluated = 0;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const auto& [file, id] = cells[i];
    bool worked = false;
    if (!evaluate_into(run, readers[file], id, variants_of(wanted, map, id), plan, shard, progress, worked)) ++failed;
    if (worked) ++evaluated;
    progress.update(
        i + 1, evaluated,
        fmt::format("{}: layer {}, timestep {}", readers[file].file().filename().string(), id.layer, id.timestep));
  }
  progress.clear();

  const Run result = read_run(options.out);
  fmt::print("{}", options.json ? run_json(result, map) : run_tables(result, map));
  if (failed == 0) return static_cast<int>(ExitCode::ok);
  fmt::print(stderr, "sage2-eval: {} of {} cells could not be evaluated; see {}/errors.jsonl\n", failed, cells.size(),
             options.out);
  return static_cast<int>(ExitCode::bad_data);
}

}  // namespace

void setup_eval(CLI::App& app, Action& action) {
  auto options = std::make_shared<EvalOptions>();
  auto* sub = app.add_subcommand("eval", "Evaluate variants on captured Q, K, V against the FP64 reference");
  sub->add_option("CAPTURE", options->captures, "Capture files (HDF5)")->required();
  sub->add_option("--variants", options->variants, "Variants, as in sage2-4b,int4:smooth_k=on,p=fp16 (see variants)");
  sub->add_option("--suite", options->suites, "Suites of variants: one published table each, or all");
  sub->add_option("--map", options->map, "Adaptive map: evaluate in each cell what it runs there");
  sub->add_option("--out", options->out, "Run folder; an interrupted run in it is continued")->required();
  sub->add_option("--device", options->device, "Where to compute")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  sub->add_option("--layers", options->layers, "Only these layers, as in 0,2,5-8");
  sub->add_option("--timesteps", options->timesteps, "Only these timesteps");
  sub->add_option("--samples", options->samples, "Only these samples");
  sub->add_option("--heads", options->heads, "Only these query heads");
  sub->add_option("--queries", options->queries, "Only so many query rows of each head, with standard errors")
      ->check(CLI::PositiveNumber);
  sub->add_option("--seed", options->seed, "Seed for the choice of rows")->capture_default_str();
  sub->add_option("--threads", options->threads, "Threads (default: all cores)")->check(CLI::PositiveNumber);
  sub->add_option("--shard", options->shard, "i/n: only part i of n, by content; merge the runs afterwards");
  sub->add_flag("--json", options->json, "Print the summary as JSON");
  options->reader.add_to(*sub);
  sub->callback([options, &action] { action = [options] { return run_eval(*options); }; });
}

}  // namespace sage2
