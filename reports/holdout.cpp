#include "reports/holdout.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <unordered_set>

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {
namespace {

constexpr std::size_t kRandomMaps = 400;

/// Fisher-Yates with plain remainders: the same everywhere for one seed, unlike std::shuffle.
void shuffle(std::mt19937_64& rng, std::vector<std::size_t>& values) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[rng() % i]);
}

/// The choice of every group; all its cells have the same.
std::vector<std::size_t> of_groups(const Groups& groups, const std::vector<std::size_t>& choice) {
  std::vector<std::size_t> of(groups.count, 0);
  for (std::size_t c = 0; c < choice.size(); ++c) of[groups.of_cell[c]] = choice[c];
  return of;
}

/// The chosen variants dealt out anew, as often each.
HoldoutRow random_row(const Designer& d, const MapDesign& design, const CellMeans& means, std::uint64_t seed,
                      Holdout& result) {
  // Whole groups are dealt; the first-and-last rule decides cell by cell but all cells of a timestep alike.
  const Groups groups = d.request.rule == Rule::first_last ? group_cells(d.table, Pooling::timestep) : d.groups;
  auto dealt = of_groups(groups, design.choice);
  std::mt19937_64 rng(seed);
  std::vector<double> errors;
  HoldoutRow row{"random", {}, 0};
  MapSummary& sum = row.summary;
  for (std::size_t r = 0; r < kRandomMaps; ++r) {
    shuffle(rng, dealt);
    const auto s = summarise(means, d.costs.grid, spread_to_cells(groups, dealt));
    errors.push_back(s.mean_error);
    const double weight = 1.0 / kRandomMaps;
    sum.other_share += weight * s.other_share;
    sum.mean_error += weight * s.mean_error;
    sum.worst_error += weight * s.worst_error;
    sum.mean_cos_sim += weight * s.mean_cos_sim;
    sum.worst_cos_sim += weight * s.worst_cos_sim;
    sum.mean_rel_l1 += weight * s.mean_rel_l1;
    sum.worst_rel_l1 += weight * s.worst_rel_l1;
    sum.mean_rmse += weight * s.mean_rmse;
    sum.worst_rmse += weight * s.worst_rmse;
    sum.cost += weight * s.cost;
    sum.speedup += weight * s.speedup;
  }
  std::sort(errors.begin(), errors.end());
  result.random_maps = kRandomMaps;
  result.random_low = errors[kRandomMaps * 25 / 1000];
  result.random_high = errors[kRandomMaps - 1 - kRandomMaps * 25 / 1000];
  return row;
}

}  // namespace

std::pair<CellTable, CellTable> split_units(const CellTable& table, double fraction, std::uint64_t seed) {
  if (!(fraction > 0 && fraction < 1)) {
    throw UsageError(fmt::format("the held-out fraction is {}, expected between 0 and 1", fraction));
  }
  if (table.units < 2) {
    throw DataError(
        fmt::format("a hold-out needs at least two independent samples, but the runs hold {}; capture more "
                    "prompts, or give another run with --holdout-run",
                    table.units));
  }
  const auto wanted = static_cast<std::size_t>(std::llround(fraction * static_cast<double>(table.units)));
  const std::size_t held = std::clamp<std::size_t>(wanted, 1, table.units - 1);
  std::vector<std::size_t> order(table.units);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::mt19937_64 rng(seed);
  shuffle(rng, order);
  std::vector<bool> seen(table.units, true);
  for (std::size_t i = 0; i < held; ++i) seen[order[i]] = false;
  auto made_from = select_units(table, seen);
  seen.flip();
  return {std::move(made_from), select_units(table, seen)};
}

CellTable align_cells(const CellTable& made_from, const CellTable& unseen) {
  if (made_from.model != unseen.model) {
    throw DataError(
        fmt::format("the hold-out run comes from model \"{}\", the map from \"{}\"", unseen.model, made_from.model));
  }
  std::map<std::pair<int, int>, const Cell*> there;
  for (const auto& cell : unseen.cells) there[{cell.layer, cell.timestep}] = &cell;
  CellTable aligned = unseen;
  aligned.cells.clear();
  for (const auto& cell : made_from.cells) {
    const auto it = there.find({cell.layer, cell.timestep});
    if (it == there.end()) throw DataError(fmt::format("the hold-out run has no records of {}", to_string(cell)));
    if (it->second->layer_name != cell.layer_name) {
      throw DataError(fmt::format("the hold-out run names layer {} \"{}\", the map's runs \"{}\"", cell.layer,
                                  it->second->layer_name, cell.layer_name));
    }
    aligned.cells.push_back(*it->second);
  }
  return aligned;
}

std::size_t shared_records(std::span<const Run> runs, std::span<const Run> unseen,
                           const std::vector<VariantId>& variants) {
  const auto wanted = [&](const Record& r) {
    return std::any_of(variants.begin(), variants.end(), [&](const auto& v) { return v.variant == r.variant; });
  };
  const auto id = [](const Record& r) { return fmt::format("{}/{}/{}", r.layer, r.timestep, r.key); };
  std::unordered_set<std::string> known;
  for (const Run& run : runs) {
    for (const Record& r : run.records) {
      if (wanted(r)) known.insert(id(r));
    }
  }
  std::size_t shared = 0;
  for (const Run& run : unseen) {
    for (const Record& r : run.records) shared += wanted(r) && known.contains(id(r)) ? 1 : 0;
  }
  return shared;
}

Holdout test_on_unseen(const Designer& d, const MapDesign& design, const CellTable& unseen, std::uint64_t seed) {
  const CellMeans means(unseen, d.request.metric);
  const auto& costs = d.costs.grid;
  const std::size_t cells = d.table.cells.size();
  Holdout result;
  result.made_from = d.table.units;
  result.unseen = unseen.units;
  result.predicted = map_total(mean_over_samples(d.table, d.error), design.choice) / static_cast<double>(cells);
  const auto add = [&](const char* label, const std::vector<std::size_t>& choice) {
    result.rows.push_back({label, summarise(means, costs, choice), 0});
  };
  add("this map", design.choice);
  // The oracle decides in groups as the map does, so that it stays a map of the same kind.
  const Groups groups = d.request.rule == Rule::first_last ? group_cells(d.table, Pooling::cell) : d.groups;
  const auto oracle = least_error(budget_items(groups, costs, means.error), map_total(costs, design.choice));
  add("oracle", spread_to_cells(groups, oracle->chosen));
  result.rows.push_back(random_row(d, design, means, seed, result));
  add(fmt::format("all {}", d.table.variants[0].name).c_str(), std::vector<std::size_t>(cells, 0));
  add(fmt::format("all {}", d.table.variants[1].name).c_str(), std::vector<std::size_t>(cells, 1));
  for (auto& row : result.rows) row.regret = row.summary.mean_error - result.rows[1].summary.mean_error;
  return result;
}

}  // namespace sage2
