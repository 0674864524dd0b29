#include <memory>

#include "harness/command.hpp"
#include "harness/rank.hpp"
#include "reports/score.hpp"

namespace sage2 {

void setup_rank(CLI::App& app, Action& action) {
  auto options = std::make_shared<RankOptions>();
  RankOptions& o = *options;
  auto* sub = app.add_subcommand("rank", "Make the adaptive map: which (layer, timestep) cells run the fallback");
  sub->add_option("RUN", o.runs, "Run folders, pooled")->required();
  sub->add_option("--base", o.base, "Variant that cells run (default sage2-4b, or the first of --choices)");
  sub->add_option("--fallback", o.fallback, "Variant of cells that need more (default sage2-8b, or the second choice)");
  sub->add_option("--choices", o.choices, "Variants A,B,C that a budget chooses from")
      ->delimiter(',')
      ->allow_extra_args(false);
  sub->add_option("--out", o.out, "Write the map here (JSON) and int8_cells.txt beside it");

  auto* rules = sub->add_option_group("rule", "Which cells run the fallback (one of these)");
  rules->add_option("--fraction", o.fraction, "The paper's rule: the lowest fraction of scores (default 0.3)");
  rules->add_option("--min-score", o.min_score, "Every score below this, score = CosSim x (1 - RelL1)");
  rules->add_option("--cosine-threshold", o.cosine_threshold, "Every CosSim not above this (SageAttention1: 0.998)");
  rules->add_option("--first-last-steps", o.first_last_steps, "The first and the last N captured timesteps")
      ->check(CLI::PositiveNumber);
  rules->add_option("--budget-ms", o.budget_ms, "Least summed error within so many milliseconds (needs --bench)");
  rules->add_option("--budget-ops", o.budget_ops,
                    "Least summed error within this share of the operations of all cells in the fallback");
  rules->add_option("--max-error", o.max_error, "Least cost with at most this mean error over cells");
  sub->add_flag("--per-layer", o.per_layer, "Decide whole layers: timesteps pooled");
  sub->add_flag("--per-timestep", o.per_timestep, "Decide whole timesteps: layers pooled");
  sub->add_option("--metric", o.metric, "Error that budgets sum and that is predicted")
      ->check(CLI::IsMember([] {
        auto names = metric_names();
        names.emplace_back("cos_sim");
        return names;
      }()))
      ->capture_default_str();
  sub->add_option("--bench", o.bench, "Measured times (JSON); without it operations are counted");

  sub->add_flag("--holdout", o.holdout, "Make the map from a part of the samples and test it on the others");
  sub->add_option("--holdout-fraction", o.holdout_fraction, "Part of the samples to hold out")->capture_default_str();
  sub->add_option("--holdout-run", o.holdout_runs, "Test the map on this run instead")->allow_extra_args(false);
  sub->add_option("--bootstrap", o.replicates, "Times the samples are resampled")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  sub->add_option("--seed", o.seed, "Seed of splitting and resampling")->capture_default_str();
  sub->add_option("--worst", o.worst, "Cells in the list of the worst")->capture_default_str();
  sub->add_option("--explain", o.explain, "LAYER,TIMESTEP: say why this cell runs what it runs");
  sub->add_flag("--json", o.json, "Print everything as JSON");
  sub->callback([options, &action] { action = [options] { return run_rank(*options); }; });
}

}  // namespace sage2
