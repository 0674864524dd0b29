#include "reports/design.hpp"

#include <algorithm>
#include <limits>

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {
namespace {

std::vector<std::size_t> as_choices(const std::vector<bool>& fallback) {
  return {fallback.begin(), fallback.end()};
}

double least_total(const BudgetItems& items, double BudgetOption::*member) {
  double sum = 0;
  for (const auto& options : items) {
    double least = std::numeric_limits<double>::infinity();
    for (const auto& o : options) least = std::min(least, o.*member);
    sum += least;
  }
  return sum;
}

MapDesign within_budget(const Designer& d, std::span<const double> weights) {
  const auto items = budget_items(d.groups, d.costs.grid, mean_over_samples(d.table, d.error, weights));
  MapDesign design;
  if (d.request.rule == Rule::max_cost) {
    design.budget = least_error(items, d.request.value);
    if (!design.budget) {
      throw UsageError(fmt::format("no map keeps a budget of {:.6g} {}: the cheapest one costs {:.6g} {}",
                                   d.request.value, d.costs.unit, least_total(items, &BudgetOption::cost),
                                   d.costs.unit));
    }
  } else {
    const auto cells = static_cast<double>(d.table.cells.size());
    design.budget = least_cost(items, d.request.value * cells);
    if (!design.budget) {
      throw UsageError(fmt::format("no map has a mean {} of at most {:.6g}: the best one has {:.6g}",
                                   to_string(d.request.metric), d.request.value,
                                   least_total(items, &BudgetOption::error) / cells));
    }
  }
  design.choice = spread_to_cells(d.groups, design.budget->chosen);
  return design;
}

}  // namespace

const char* to_string(Rule rule) {
  switch (rule) {
    case Rule::fraction:
      return "fraction";
    case Rule::min_score:
      return "min_score";
    case Rule::cosine:
      return "cosine_threshold";
    case Rule::first_last:
      return "first_last_steps";
    case Rule::max_cost:
      return "max_cost";
    case Rule::max_error:
      return "max_error";
  }
  throw UsageError("unknown rule");
}

Designer::Designer(const CellTable& cells, const Costs& cell_costs, const MapRequest& what)
    : table(cells),
      costs(cell_costs),
      request(what),
      groups(group_cells(cells, what.pooling)),
      ranking(evaluate(
          cells, [&](const Observation& o) { return what.rule == Rule::cosine ? o.cos_sim : paper_score(o); }, 1)),
      error(evaluate(cells, [&](const Observation& o) { return error_of(o, what.metric); })) {}

MapDesign design_map(const Designer& d, std::span<const double> weights) {
  if (d.request.rule == Rule::max_cost || d.request.rule == Rule::max_error) return within_budget(d, weights);
  if (d.request.rule == Rule::first_last) {
    return {as_choices(first_and_last_steps(d.table, static_cast<std::size_t>(d.request.value))), {}};
  }
  const auto ranking = group_means(d.groups, mean_over_samples(d.table, d.ranking, weights).column(0));
  std::vector<bool> fallback;
  if (d.request.rule == Rule::fraction) {
    fallback = lowest(ranking, fraction_count(d.request.value, d.groups.count));
  } else if (d.request.rule == Rule::min_score) {
    fallback = below(ranking, d.request.value);
  } else {
    fallback = not_above(ranking, d.request.value);
  }
  return {spread_to_cells(d.groups, as_choices(fallback)), {}};
}

BudgetItems budget_items(const Groups& groups, const CellGrid& costs, const CellGrid& errors) {
  BudgetItems items(groups.count, std::vector<BudgetOption>(costs.variants));
  for (std::size_t c = 0; c < groups.of_cell.size(); ++c) {
    for (std::size_t v = 0; v < costs.variants; ++v) {
      items[groups.of_cell[c]][v].cost += costs.at(c, v);
      items[groups.of_cell[c]][v].error += errors.at(c, v);
    }
  }
  return items;
}

std::vector<std::size_t> spread_to_cells(const Groups& groups, const std::vector<std::size_t>& choices) {
  std::vector<std::size_t> of_cells;
  for (const auto g : groups.of_cell) of_cells.push_back(choices[g]);
  return of_cells;
}

CellMeans::CellMeans(const CellTable& table, Metric metric)
    : score(mean_over_samples(table, evaluate(table, paper_score))),
      cos_sim(mean_over_samples(table, evaluate(table, [](const Observation& o) { return o.cos_sim; }))),
      rel_l1(mean_over_samples(table, evaluate(table, [](const Observation& o) { return o.rel_l1; }))),
      rmse(mean_over_samples(table, evaluate(table, [](const Observation& o) { return o.rmse; }))),
      error(mean_over_samples(table, evaluate(table, [&](const Observation& o) { return error_of(o, metric); }))) {}

double map_total(const CellGrid& grid, const std::vector<std::size_t>& choice) {
  double sum = 0;
  for (std::size_t c = 0; c < choice.size(); ++c) sum += grid.at(c, choice[c]);
  return sum;
}

MapSummary summarise(const CellMeans& means, const CellGrid& costs, const std::vector<std::size_t>& choice) {
  const auto cells = static_cast<double>(choice.size());
  const auto worst = [&](const CellGrid& grid, bool largest) {
    double value = grid.at(0, choice[0]);
    for (std::size_t c = 1; c < choice.size(); ++c) {
      const double x = grid.at(c, choice[c]);
      value = largest ? std::max(value, x) : std::min(value, x);
    }
    return value;
  };
  MapSummary s;
  s.other_share =
      static_cast<double>(std::count_if(choice.begin(), choice.end(), [](auto v) { return v != 0; })) / cells;
  s.mean_error = map_total(means.error, choice) / cells;
  s.worst_error = worst(means.error, true);
  s.mean_cos_sim = map_total(means.cos_sim, choice) / cells;
  s.worst_cos_sim = worst(means.cos_sim, false);
  s.mean_rel_l1 = map_total(means.rel_l1, choice) / cells;
  s.worst_rel_l1 = worst(means.rel_l1, true);
  s.mean_rmse = map_total(means.rmse, choice) / cells;
  s.worst_rmse = worst(means.rmse, true);
  s.cost = map_total(costs, choice);
  s.speedup = map_total(costs, std::vector<std::size_t>(choice.size(), 1)) / s.cost;
  return s;
}

}  // namespace sage2
