#include "harness/rank.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "harness/version.hpp"
#include "reference/variant.hpp"
#include "reports/bench.hpp"
#include "reports/rank.hpp"
#include "reports/rank_json.hpp"
#include "reports/rank_text.hpp"

namespace sage2 {
namespace {

using nlohmann::json;

/// A run without what ranking does not need: heads are most of a record.
Run read_light(const std::string& folder) {
  Run run;
  run.folder = folder;
  run.info = for_each_record(
      folder,
      [&](Record&& r) {
        r.heads = {};
        run.records.push_back(std::move(r));
      },
      &run.truncated);
  if (run.truncated) fmt::print(stderr, "sage2-eval: {}: the last record is cut off and left out\n", folder);
  return run;
}

std::vector<Run> read_runs(const std::vector<std::string>& folders) {
  std::vector<Run> runs;
  for (const auto& folder : folders) runs.push_back(read_light(folder));
  return runs;
}

/// By name or canonical spelling, else by any spelling that means the same.
VariantId resolve(const std::vector<Run>& runs, const std::string& text) {
  try {
    return find_variant(runs, text);
  } catch (const UsageError& not_found) {
    std::string spelling;
    try {
      spelling = canonical(parse_variant(text));
    } catch (const UsageError&) {
      throw not_found;
    }
    if (spelling == text) throw;
    return find_variant(runs, spelling);
  }
}

/// Base first, fallback second, then the other choices.
std::vector<VariantId> wanted_variants(const RankOptions& o, const std::vector<Run>& runs) {
  if (o.choices.size() == 1) throw UsageError("--choices: expected at least two variants, found one");
  const auto pick = [&](const std::string& given, std::size_t choice, const char* preset) {
    if (!given.empty()) return resolve(runs, given);
    return resolve(runs, o.choices.empty() ? preset : o.choices[choice]);
  };
  std::vector<VariantId> wanted{pick(o.base, 0, "sage2-4b"), pick(o.fallback, 1, "sage2-8b")};
  if (wanted[0].variant == wanted[1].variant) {
    throw UsageError(fmt::format("base and fallback are the same variant, {}", wanted[0].name));
  }
  for (const auto& text : o.choices) {
    const auto id = resolve(runs, text);
    const auto same = [&](const VariantId& v) { return v.variant == id.variant; };
    if (std::none_of(wanted.begin(), wanted.end(), same)) wanted.push_back(id);
  }
  return wanted;
}

OperandBits operand_bits(const std::string& spelling) {
  const Variant v = parse_variant(spelling);
  const auto bits = [](Format f) { return is_integer(f) ? bits_of(f) : is_fp8(f) ? 8 : 16; };
  return {std::max(bits(v.q), bits(v.k)), std::max(bits(v.p), bits(v.v))};
}

MapRequest map_request(const RankOptions& o, const CellTable& table, const Costs& costs) {
  struct Given {
    const char* flag;
    Rule rule;
    std::optional<double> value;
  };
  const std::optional<double> steps =
      o.first_last_steps ? std::optional(static_cast<double>(*o.first_last_steps)) : std::nullopt;
  const std::vector<Given> rules{{"--fraction", Rule::fraction, o.fraction},
                                 {"--min-score", Rule::min_score, o.min_score},
                                 {"--cosine-threshold", Rule::cosine, o.cosine_threshold},
                                 {"--first-last-steps", Rule::first_last, steps},
                                 {"--budget-ms", Rule::max_cost, o.budget_ms},
                                 {"--budget-ops", Rule::max_cost, o.budget_ops},
                                 {"--max-error", Rule::max_error, o.max_error}};
  MapRequest request;
  const char* given = nullptr;
  for (const auto& [flag, rule, value] : rules) {
    if (!value) continue;
    if (given != nullptr) throw UsageError(fmt::format("{} and {}: give one rule", given, flag));
    given = flag;
    request.rule = rule;
    request.value = *value;
  }
  if (o.per_layer && o.per_timestep) throw UsageError("--per-layer and --per-timestep: give one of them");
  if (o.per_layer) request.pooling = Pooling::layer;
  if (o.per_timestep) request.pooling = Pooling::timestep;
  if (request.rule == Rule::first_last && request.pooling != Pooling::cell) {
    throw UsageError("--first-last-steps decides by timestep already: leave --per-layer and --per-timestep out");
  }
  const bool budget = request.rule == Rule::max_cost || request.rule == Rule::max_error;
  if (table.variants.size() > 2 && !budget) {
    throw UsageError("more than two --choices need a budget: --budget-ms, --budget-ops or --max-error");
  }
  request.metric = parse_metric(o.metric);
  if (o.budget_ops) {  // given as a share of what the fallback everywhere costs
    request.value *= map_total(costs.grid, std::vector<std::size_t>(table.cells.size(), 1));
  }
  return request;
}

Costs cell_costs(const RankOptions& o, const CellTable& table) {
  if (o.budget_ms && o.bench.empty()) throw UsageError("--budget-ms needs measured times: give --bench FILE");
  if (o.bench.empty() || o.budget_ops) return modelled_costs(table, operand_bits);
  return measured_costs(table, read_bench(o.bench), o.bench);
}

json provenance(const RankOptions& o, const RankResult& result, const std::vector<Run>& runs,
                const std::vector<Run>& unseen) {
  const RunInfo program = machine_info();
  json j{{"command", command_line()},
         {"version", program.version},
         {"commit", program.commit},
         {"dirty", program.dirty},
         {"created", program.started},
         {"seed", o.seed},
         {"devices", result.table().devices},
         {"samples", result.table().units},
         {"runs", json::array()}};
  const auto add = [](json& list, const Run& run) {
    list.push_back({{"folder", run.folder.string()},
                    {"command", run.info.command},
                    {"version", run.info.version},
                    {"commit", run.info.commit},
                    {"dirty", run.info.dirty},
                    {"captures", run.info.captures}});
  };
  for (const auto& run : runs) add(j["runs"], run);
  for (const auto& run : unseen) add(j["holdout_runs"], run);
  if (o.holdout) j["held_out_fraction"] = o.holdout_fraction;
  j["stability"] = {{"replicates", result.stability.replicates}, {"warnings", result.stability.warnings}};
  if (result.stability.replicates > 0) j["stability"]["kendall_tau"] = result.stability.tau_mean;
  return j;
}

std::pair<int, int> parse_cell(const std::string& text) {
  const auto comma = text.find(',');
  int layer = 0;
  int timestep = 0;
  try {
    if (comma == std::string::npos) throw std::invalid_argument("no comma");
    std::size_t layer_end = 0;
    std::size_t timestep_end = 0;
    layer = std::stoi(text, &layer_end);
    timestep = std::stoi(text.substr(comma + 1), &timestep_end);
    if (layer_end != comma || timestep_end != text.size() - comma - 1) throw std::invalid_argument("trailing text");
  } catch (const std::logic_error&) {
    throw UsageError(fmt::format("--explain: expected LAYER,TIMESTEP, found \"{}\"", text));
  }
  return {layer, timestep};
}

/// Colour only where somebody looks, and not where they asked for none (https://no-color.org).
bool wants_colour() {
  return isatty(STDOUT_FILENO) == 1 && std::getenv("NO_COLOR") == nullptr;  // NOLINT(concurrency-mt-unsafe)
}

}  // namespace

int run_rank(const RankOptions& o) {
  const auto runs = read_runs(o.runs);
  const auto variants = wanted_variants(o, runs);
  CellTable table = pool_cells(runs, variants);
  const auto unseen_runs = read_runs(o.holdout_runs);
  std::optional<CellTable> unseen;
  if (o.holdout && !unseen_runs.empty()) throw UsageError("--holdout and --holdout-run: give one of them");
  if (o.holdout) {
    auto parts = split_units(table, o.holdout_fraction, o.seed);
    table = std::move(parts.first);
    unseen = std::move(parts.second);
  } else if (!unseen_runs.empty()) {
    if (const auto shared = shared_records(runs, unseen_runs, variants); shared > 0) {
      throw DataError(
          fmt::format("{} records of the hold-out run are also in the runs the map is made from, so they "
                      "are not unseen",
                      shared));
    }
    unseen = align_cells(table, pool_cells(unseen_runs, variants));
  }
  const Costs costs = cell_costs(o, table);
  const RankRequest request{map_request(o, table, costs), {o.replicates, o.seed}};
  auto result = rank_cells(table, costs, request, unseen ? &*unseen : nullptr);
  result.stages = stage_sensitivity(runs, variants[0].variant);

  std::string written;
  if (!o.out.empty()) {
    auto map = to_map(result);
    map.provenance = provenance(o, result, runs, unseen_runs);
    written = fmt::format("{} and {}", o.out, write_map(o.out, map).string());
  }
  if (!o.explain.empty()) {
    const auto [layer, timestep] = parse_cell(o.explain);
    fmt::print("{}", explain_text(result, layer, timestep));
  } else if (o.json) {
    fmt::print("{}\n", rank_json(result).dump(2));
  } else {
    fmt::print("{}", rank_text(result, {wants_colour(), o.worst}));
    if (!written.empty()) fmt::print("\nWritten: {}\n", written);
  }
  return static_cast<int>(ExitCode::ok);
}

}  // namespace sage2
