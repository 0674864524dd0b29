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
#include "harness/device_choice.hpp"
#include "harness/evaluate.hpp"
#include "harness/record_sink.hpp"
#include "harness/run_writer.hpp"
#include "harness/summarise_run.hpp"
#include "harness/version.hpp"
#include "reports/map.hpp"

namespace sage2 {
namespace {

struct EvalOptions {
  std::vector<std::string> captures;
  std::vector<std::string> variants, suites;
  DeviceOptions device;
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

/// One cell of one capture, and what it needs.
struct WantedCell {
  const CaptureReader* reader = nullptr;
  CellId id;
  std::vector<NamedVariant> variants;
};

/// Hands one cell to the engine; what is wrong with it becomes an error record, and the run goes on.
void evaluate_into(RecordSink& sink, Engine& engine, std::size_t index, const WantedCell& wanted,
                   const EvaluationPlan& plan, const Shard& shard) {
  try {
    CellJob job{index, CellBits(*wanted.reader, wanted.reader->describe(wanted.id), engine.keep()), {}};
    if (shard.takes(job.bits.hash())) {
      for (const auto& v : wanted.variants) {
        if (sink.claim(record_key(job.bits.hash(), v, plan))) job.variants.push_back(v);
      }
    }
    if (job.variants.empty()) {
      sink.done(index, {});
    } else {
      engine.evaluate(std::move(job));
    }
  } catch (const DataError& e) {
    if (sink.broken()) throw;
    const auto& id = wanted.id;
    sink.failed(index,
                {wanted.reader->file().filename().string(), id.layer, id.timestep, id.sample, std::string(e.what())});
  }
}

/// Evaluates all cells. Whatever ends the run early, what is finished by then is written.
void evaluate_all(RecordSink& sink, std::unique_ptr<Engine> engine, const std::vector<WantedCell>& cells,
                  const EvaluationPlan& plan, const Shard& shard) {
  try {
    for (std::size_t i = 0; i < cells.size(); ++i) evaluate_into(sink, *engine, i, cells[i], plan, shard);
    engine->finish();
  } catch (...) {
    engine.reset();  // what runs is finished first
    sink.finish();
    sink.write_all();
    throw;
  }
  sink.finish();
}

int run_eval(const EvalOptions& options) {
  const auto wanted = wanted_variants(options);
  const Shard shard(options.shard);
  const Selection selection{{options.layers, "--layers"},
                            {options.timesteps, "--timesteps"},
                            {options.samples, "--samples"},
                            {options.heads, "--heads"}};
  EvaluationPlan plan{selection.heads, std::nullopt, options.seed};
  if (options.queries > 0) plan.queries = options.queries;
  if (plan.queries && options.device.kernels == "native") {
    throw UsageError("--engine native computes all query rows: it cannot be combined with --queries");
  }
  DeviceChoice device(options.device);  // from here on the GPUs start in the background
  if (options.threads > 0) omp_set_num_threads(options.threads);
  std::optional<AdaptiveMap> map;
  if (!options.map.empty()) map = read_map(options.map);

  std::vector<CaptureReader> readers;
  for (const auto& file : options.captures) readers.emplace_back(file, options.reader.options());
  std::vector<WantedCell> cells;
  std::vector<std::string> names;
  for (const auto& reader : readers) {
    for (const auto& id : select_cells(reader, selection)) {
      cells.push_back({&reader, id, variants_of(wanted, map, id)});
      names.push_back(
          fmt::format("{}: layer {}, timestep {}", reader.file().filename().string(), id.layer, id.timestep));
    }
  }
  auto info = describe_run(options, wanted, readers);
  device.decide();
  device.describe(info);
  RunWriter run(options.out, std::move(info));
  if (run.resumed() > 0) fmt::print(stderr, "{}: {} records are there already\n", options.out, run.resumed());

  RecordSink sink(run, std::move(names));
  evaluate_all(sink, device.make_engine(plan, sink), cells, plan, shard);

  const Run result = read_run(options.out);
  fmt::print("{}", options.json ? run_json(result, map) : run_tables(result, map));
  if (sink.failures() == 0) return static_cast<int>(ExitCode::ok);
  fmt::print(stderr, "sage2-eval: {} of {} cells could not be evaluated; see {}/errors.jsonl\n", sink.failures(),
             cells.size(), options.out);
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
  sub->add_option("--device", options->device.device, "Where to compute: auto is cuda where there is a usable GPU")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  sub->add_option("--engine", options->device.kernels,
                  "On a GPU: native kernels where the chip has them (auto), always, or never")
      ->check(CLI::IsMember({"auto", "native", "emulated"}))
      ->capture_default_str();
  sub->add_option("--gpu-memory", options->device.memory, "GiB of each GPU to use at most (default: what is free)")
      ->check(CLI::PositiveNumber);
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
