#include "reports/rank.hpp"

#include "fmt/format.h"

namespace sage2 {
namespace {

using nlohmann::json;

std::string plural(const RankResult& r) {
  switch (r.designer.request.pooling) {
    case Pooling::layer:
      return "layers";
    case Pooling::timestep:
      return "timesteps";
    default:
      return "cells";
  }
}

json rule_json(const RankResult& r) {
  const auto& request = r.designer.request;
  json j{{"pooling", to_string(request.pooling)}};
  if (request.rule == Rule::first_last) {
    j[to_string(request.rule)] = static_cast<int>(request.value);
  } else {
    j[to_string(request.rule)] = request.value;
  }
  if (request.rule == Rule::fraction || request.rule == Rule::min_score) j["score"] = "cos_sim*(1-rel_l1)";
  if (request.rule == Rule::cosine) j["score"] = "cos_sim";
  if (r.design.budget) {
    j["minimised"] = request.rule == Rule::max_cost ? fmt::format("mean {}", to_string(request.metric)) : "cost";
    j["metric"] = to_string(request.metric);
    j["cost_unit"] = r.designer.costs.unit;
    j["proved_optimal"] = r.design.budget->proved;
    j["gap"] = r.design.budget->gap;
  }
  return j;
}

}  // namespace

RankResult rank_cells(const CellTable& table, const Costs& costs, const RankRequest& request, const CellTable* unseen) {
  Designer designer(table, costs, request.map);
  MapDesign design = design_map(designer);
  CellMeans means(table, request.map.metric);
  const std::size_t cells = table.cells.size();
  const auto summary = [&](const std::vector<std::size_t>& choice) { return summarise(means, costs.grid, choice); };
  auto ranking = group_means(designer.groups, mean_over_samples(table, designer.ranking).column(0));
  RankResult result{designer,
                    design,
                    means,
                    std::move(ranking),
                    summary(design.choice),
                    summary(std::vector<std::size_t>(cells, 0)),
                    summary(std::vector<std::size_t>(cells, 1)),
                    bootstrap(designer, design, request.bootstrap),
                    error_curve(designer, unseen == nullptr ? table : *unseen),
                    {},
                    {}};
  if (unseen != nullptr) result.holdout = test_on_unseen(designer, design, *unseen, request.bootstrap.seed);
  return result;
}

std::string describe_rule(const RankResult& r) {
  const auto& request = r.designer.request;
  const auto& budget = r.design.budget;
  const std::string& base = r.name_of(0);
  const std::string& fallback = r.name_of(1);
  const std::string what = plural(r);
  switch (request.rule) {
    case Rule::fraction:
      return fmt::format("the {} of {} {} with the lowest scores ({:g} %) run {}, the others {}",
                         fraction_count(request.value, r.designer.groups.count), r.designer.groups.count, what,
                         100 * request.value, fallback, base);
    case Rule::min_score:
      return fmt::format("{} whose score is below {:g} run {}, the others {}", what, request.value, fallback, base);
    case Rule::cosine:
      return fmt::format("{} whose cosine similarity is not above {:g} run {}, the others {}", what, request.value,
                         fallback, base);
    case Rule::first_last:
      return fmt::format("the first and the last {:g} captured timesteps run {}, the others {}", request.value,
                         fallback, base);
    case Rule::max_cost:
      return fmt::format("the least summed {} that costs at most {:.6g} {} ({:.4g} of all fallback); {}",
                         to_string(request.metric), request.value, r.designer.costs.unit,
                         request.value / r.all_fallback.cost,
                         budget->proved ? "proved optimal, gap 0"
                                        : fmt::format("not proved optimal: at most {:.3g} ({:.2g} %) above the optimum",
                                                      budget->gap, 100 * budget->gap / budget->error));
    case Rule::max_error:
      return fmt::format("the least cost with a mean {} of at most {:g}; {}", to_string(request.metric), request.value,
                         budget->proved
                             ? "proved optimal, gap 0"
                             : fmt::format("not proved optimal: at most {:.3g} {} ({:.2g} %) above the optimum",
                                           budget->gap, r.designer.costs.unit, 100 * budget->gap / budget->cost));
  }
  return "";
}

AdaptiveMap to_map(const RankResult& r) {
  AdaptiveMap map;
  const CellTable& table = r.table();
  map.model = table.model;
  map.base = r.name_of(0);
  map.fallback = r.name_of(1);
  for (const auto& v : table.variants) map.variants[v.name] = v.variant;
  map.rule = rule_json(r);
  for (std::size_t c = 0; c < table.cells.size(); ++c) {
    const Cell& cell = table.cells[c];
    const std::size_t v = r.design.choice[c];
    map.cells.push_back({cell.layer, cell.layer_name, cell.timestep, cell.timestep_value, r.means.score.at(c, 0),
                         r.means.error.at(c, v), r.name_of(v)});
  }
  const MapSummary& s = r.map;
  map.predicted = json{{"share_not_base", s.other_share},
                       {"metric", to_string(r.designer.request.metric)},
                       {"mean_error", s.mean_error},
                       {"worst_error", s.worst_error},
                       {"mean_cos_sim", s.mean_cos_sim},
                       {"worst_cos_sim", s.worst_cos_sim},
                       {"mean_rel_l1", s.mean_rel_l1},
                       {"worst_rel_l1", s.worst_rel_l1},
                       {"mean_rmse", s.mean_rmse},
                       {"worst_rmse", s.worst_rmse},
                       {"cost", s.cost},
                       {"cost_unit", r.designer.costs.unit},
                       {"cost_source", r.designer.costs.source},
                       {"speed_vs_all_fallback", s.speedup}};
  return map;
}

}  // namespace sage2
