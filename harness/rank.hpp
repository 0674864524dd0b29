#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "reports/design.hpp"

/// `sage2-eval rank` without a command line.
namespace sage2 {

struct RankOptions {
  std::vector<std::string> runs;
  std::string base, fallback;        ///< empty: sage2-4b and sage2-8b, or the first two choices
  std::vector<std::string> choices;  ///< variants that a budget may choose from; empty: base and fallback

  std::optional<double> fraction, min_score, cosine_threshold;
  std::optional<double> budget_ms, budget_ops, max_error;
  std::optional<std::size_t> first_last_steps;
  bool per_layer = false, per_timestep = false;
  std::string metric = "rel_l1";
  std::string bench;

  bool holdout = false;           ///< make the map from a part of the draws, test it on the others
  double holdout_fraction = 0.5;  ///< of the draws that are held out
  std::vector<std::string> holdout_runs;
  std::size_t replicates = 1000;
  std::uint64_t seed = 0;

  std::string out;
  std::string explain;  ///< "LAYER,TIMESTEP"
  std::size_t worst = 10;
  bool json = false;
};

/// Reads the runs, makes the map, writes it where `out` is set and prints what was found. Returns the exit code.
int run_rank(const RankOptions& options);

}  // namespace sage2
