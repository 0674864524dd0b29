#include <memory>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "harness/command.hpp"
#include "harness/selection.hpp"
#include "reports/compare.hpp"

namespace sage2 {
namespace {

struct CompareOptions {
  std::string run_a, run_b;
  std::string metric = "rel_l1";
  std::vector<std::string> variants;
  std::string layers;
  double tolerance = 0.01, confidence = 0.95;
  std::size_t movers = 10;
  bool fail_if_worse = false, json = false;
};

Report load(const std::string& run, const CompareOptions& options) {
  ReportSelection selection;
  selection.variants = options.variants;
  selection.layer = [layers = IndexList(options.layers, "--layers")](int layer) { return layers.contains(layer); };
  auto report = load_report({run}, selection);
  for (const auto& remark : report.remarks) fmt::print(stderr, "sage2-eval: {}: {}\n", run, remark);
  return report;
}

int run_compare(const CompareOptions& options) {
  const CompareSettings settings{&metric_info(options.metric), options.tolerance, options.confidence};
  const auto comparison = compare_reports(load(options.run_a, options), load(options.run_b, options), settings);
  if (options.json) {
    fmt::print("{}\n", comparison_json(comparison).dump(1));
  } else {
    fmt::print("A: {}\nB: {}\n\n{}", options.run_a, options.run_b, to_text(comparison_table(comparison)));
    const auto movers = movers_table(comparison, options.movers);
    if (!movers.rows.empty()) fmt::print("\n{}", to_text(movers));
    fmt::print("\n");
    for (const auto& line : comparison_summary(comparison)) fmt::print("{}\n", line);
  }
  return static_cast<int>(options.fail_if_worse && comparison.any_worse() ? ExitCode::check_failed : ExitCode::ok);
}

}  // namespace

void setup_compare(CLI::App& app, Action& action) {
  auto options = std::make_shared<CompareOptions>();
  auto* sub = app.add_subcommand("compare", "Say where run B is better, worse or the same as run A");
  sub->add_option("RUN_A", options->run_a, "Run folder")->required();
  sub->add_option("RUN_B", options->run_b, "Run folder over the same captures")->required();
  sub->add_option("--metric", options->metric, "cos_sim, rel_l1, rmse, max_abs, p50 .. p999")->capture_default_str();
  sub->add_option("--variants", options->variants, "Only these variants, separated by blanks");
  sub->add_option("--layers", options->layers, "Only these layers, as in 0,2,5-8");
  sub->add_option("--tolerance", options->tolerance, "Changes up to this fraction of A's error are none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  sub->add_option("--confidence", options->confidence, "Probability of the intervals")
      ->check(CLI::Range(0.5, 0.999999))
      ->capture_default_str();
  sub->add_option("--movers", options->movers, "How many of the worst movers to list")->capture_default_str();
  sub->add_flag("--fail-if-worse", options->fail_if_worse, "Exit with 1 where B is worse in a cell or on average");
  sub->add_flag("--json", options->json, "Print everything as JSON");
  sub->callback([options, &action] { action = [options] { return run_compare(*options); }; });
}

}  // namespace sage2
