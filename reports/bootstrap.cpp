#include "reports/bootstrap.hpp"

#include <algorithm>
#include <random>
#include <set>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "reports/model_cells.hpp"

namespace sage2 {
namespace {

constexpr std::size_t kBudgetReplicates = 100;

/// Counts of a sample of `units` draws with replacement. Plain remainders instead of a distribution, whose results the
/// standard leaves to the library: the same seed must give the same map everywhere.
void draw(std::mt19937_64& rng, std::vector<double>& counts) {
  std::fill(counts.begin(), counts.end(), 0.0);
  for (std::size_t i = 0; i < counts.size(); ++i) counts[rng() % counts.size()] += 1.0;
}

/// Independent draws of the cell that has the fewest.
std::size_t fewest_units(const CellTable& table) {
  std::size_t fewest = table.units;
  for (const auto& cell : table.cells) {
    fewest = std::min(fewest, std::set(cell.units.begin(), cell.units.end()).size());
  }
  return fewest;
}

/// A replicate in which no map keeps the budget agrees with nothing.
void count_agreement(std::vector<double>& agreement, const Designer& d, const MapDesign& design,
                     const std::vector<double>& counts) {
  std::vector<std::size_t> again;
  try {
    again = design_map(d, counts).choice;
  } catch (const UsageError&) {
    return;
  }
  for (std::size_t c = 0; c < again.size(); ++c) agreement[c] += again[c] == design.choice[c] ? 1.0 : 0.0;
}

void add_warnings(Bootstrap& b, const Designer& d) {
  if (b.units < kFewUnits) {
    b.warnings.push_back(
        fmt::format("only {} independent samples: the intervals are too narrow and the ranking may "
                    "not hold for other prompts; capture at least {}",
                    b.units, kFewUnits));
  }
  if (d.groups.count > 1 && !(b.tau_mean >= kStableTau)) {
    b.warnings.push_back(
        fmt::format("the ranking changes with the samples (Kendall's tau {:.2f}, below {:.1f}); "
                    "capture more samples",
                    b.tau_mean, kStableTau));
  }
  const auto undecided = std::count_if(b.agreement.begin(), b.agreement.end(), [](double a) { return a < 0.95; });
  if (undecided > 0) {
    b.warnings.push_back(fmt::format("{} of {} cells get another variant in more than 5 % of the resampled maps",
                                     undecided, b.agreement.size()));
  }
}

}  // namespace

Bootstrap bootstrap(const Designer& d, const MapDesign& design, const BootstrapOptions& options) {
  Bootstrap b;
  b.units = fewest_units(d.table);
  if (b.units < 2) {
    b.warnings.emplace_back(
        "one sample only: nothing says whether the ranking holds for other prompts; capture at "
        "least 5");
    return b;
  }
  b.replicates = options.replicates;
  const std::size_t cells = d.table.cells.size();
  const bool budget = design.budget.has_value();
  const std::size_t maps = budget ? std::min(options.replicates, kBudgetReplicates) : options.replicates;
  const KendallTau reference(group_means(d.groups, mean_over_samples(d.table, d.ranking).column(0)));

  std::mt19937_64 rng(options.seed);
  std::vector<double> counts(d.table.units);
  std::vector<double> taus;
  std::vector<std::vector<double>> values(cells);
  for (auto& v : values) v.reserve(options.replicates);
  b.agreement.assign(cells, 0.0);
  for (std::size_t r = 0; r < options.replicates; ++r) {
    draw(rng, counts);
    const auto means = mean_over_samples(d.table, d.ranking, counts).column(0);
    for (std::size_t c = 0; c < cells; ++c) values[c].push_back(means[c]);
    taus.push_back(reference.with(group_means(d.groups, means)));
    if (r >= maps) continue;
    count_agreement(b.agreement, d, design, counts);
  }
  for (std::size_t c = 0; c < cells; ++c) {
    b.agreement[c] /= static_cast<double>(maps);
    std::sort(values[c].begin(), values[c].end());
    b.low.push_back(quantile(values[c], 0.025));
    b.high.push_back(quantile(values[c], 0.975));
  }
  for (const double t : taus) b.tau_mean += t / static_cast<double>(taus.size());
  std::sort(taus.begin(), taus.end());
  b.tau_low = quantile(taus, 0.05);
  add_warnings(b, d);
  return b;
}

}  // namespace sage2
