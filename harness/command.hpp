#pragma once

#include <functional>

#include "CLI/CLI.hpp"

/// Subcommands. Each lives in one file: an options struct, a setup that declares its flags, and a run that can be
/// called without a command line. Setup stores what to do in `action`; main runs it and turns errors into exit codes.
namespace sage2 {

using Action = std::function<int()>;

void setup_inspect(CLI::App& app, Action& action);
void setup_synth(CLI::App& app, Action& action);
void setup_eval(CLI::App& app, Action& action);
void setup_merge(CLI::App& app, Action& action);
void setup_rank(CLI::App& app, Action& action);
void setup_report(CLI::App& app, Action& action);
void setup_compare(CLI::App& app, Action& action);
void setup_verify(CLI::App& app, Action& action);
void setup_bench(CLI::App& app, Action& action);
void setup_variants(CLI::App& app, Action& action);

}  // namespace sage2
