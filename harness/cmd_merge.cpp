#include <cstdio>
#include <memory>
#include <set>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "harness/command.hpp"
#include "harness/run_writer.hpp"
#include "harness/version.hpp"

namespace sage2 {
namespace {

struct MergeOptions {
  std::vector<std::string> runs;
  std::string out;
};

/// Adds what another part of the same experiment was asked for.
void unite(RunInfo& into, const RunInfo& more) {
  for (const auto& c : more.captures) {
    bool known = false;
    for (const auto& have : into.captures) {
      if (have.name == c.name && have.fingerprint != c.fingerprint) {
        throw UsageError(fmt::format("merge: two different captures are called {}", c.name));
      }
      known = known || have.name == c.name;
    }
    if (!known) into.captures.push_back(c);
  }
  std::set<std::string> labels;
  for (const auto& v : into.variants) labels.insert(v.label + '\n' + v.variant);
  for (const auto& v : more.variants) {
    if (labels.insert(v.label + '\n' + v.variant).second) into.variants.push_back(v);
  }
  std::set<std::string> titles;
  for (const auto& s : into.suites) titles.insert(s.name + '\n' + s.title);
  for (const auto& s : more.suites) {
    if (titles.insert(s.name + '\n' + s.title).second) into.suites.push_back(s);
  }
}

int run_merge(const MergeOptions& options) {
  std::vector<Run> runs;
  for (const auto& folder : options.runs) runs.push_back(read_run(folder));
  RunInfo info = machine_info();
  info.command = command_line();
  info.seed = runs.front().info.seed;
  info.selection = runs.front().info.selection;
  for (const auto& run : runs) {
    for (const char* key : {"heads", "queries"}) {
      const auto a = info.selection.value(key, nlohmann::json());
      const auto b = run.info.selection.value(key, nlohmann::json());
      if (a != b) {
        throw UsageError(fmt::format("merge: {} evaluated {} {}, {} evaluated {}", runs.front().folder.string(), key,
                                     a.dump(), run.folder.string(), b.dump()));
      }
    }
    unite(info, run.info);
  }
  if (info.selection.contains("shard")) info.selection["shard"] = "";

  RunWriter writer(options.out, info);
  std::size_t added = 0;
  std::size_t known = 0;
  std::set<std::tuple<std::string, int, int, int>> bad;
  for (const auto& run : runs) {
    for (const auto& record : run.records) {
      if (writer.has(record.key)) {
        ++known;
        continue;
      }
      writer.add(record);
      ++added;
    }
    for (const auto& e : run.errors) {
      if (bad.insert({e.capture, e.layer, e.timestep, e.sample}).second) writer.add(e);
    }
  }
  fmt::print("{}: {} records, {} in more than one run, {} cells with errors\n", options.out, added, known, bad.size());
  return static_cast<int>(bad.empty() ? ExitCode::ok : ExitCode::bad_data);
}

}  // namespace

void setup_merge(CLI::App& app, Action& action) {
  auto options = std::make_shared<MergeOptions>();
  auto* sub = app.add_subcommand("merge", "Put the runs of several machines or shards together");
  sub->add_option("RUN", options->runs, "Run folders")->required();
  sub->add_option("--out", options->out, "The new run folder")->required();
  sub->callback([options, &action] { action = [options] { return run_merge(*options); }; });
}

}  // namespace sage2
