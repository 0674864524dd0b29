#include "reports/rank_json.hpp"

namespace sage2 {
namespace {

using nlohmann::json;

json summary_json(const MapSummary& s) {
  return {{"share_not_base", s.other_share},   {"mean_error", s.mean_error},
          {"worst_error", s.worst_error},      {"mean_cos_sim", s.mean_cos_sim},
          {"worst_cos_sim", s.worst_cos_sim},  {"mean_rel_l1", s.mean_rel_l1},
          {"worst_rel_l1", s.worst_rel_l1},    {"mean_rmse", s.mean_rmse},
          {"worst_rmse", s.worst_rmse},        {"cost", s.cost},
          {"speed_vs_all_fallback", s.speedup}};
}

json cells_json(const RankResult& r) {
  const CellTable& t = r.table();
  json cells = json::array();
  std::vector<std::size_t> rank(t.cells.size());
  const auto order = ascending(r.means.score.column(0));
  for (std::size_t i = 0; i < order.size(); ++i) rank[order[i]] = i + 1;
  for (std::size_t c = 0; c < t.cells.size(); ++c) {
    const Cell& cell = t.cells[c];
    json j{{"layer", cell.layer},       {"layer_name", cell.layer_name},
           {"timestep", cell.timestep}, {"samples", cell.samples()},
           {"rank", rank[c]},           {"runs", r.name_of(r.design.choice[c])}};
    if (!r.stability.low.empty()) {
      j["interval"] = {r.stability.low[c], r.stability.high[c]};
      j["agreement"] = r.stability.agreement[c];
    }
    for (std::size_t v = 0; v < t.variants.size(); ++v) {
      j["variants"][t.variants[v].name] = {
          {"score", r.means.score.at(c, v)},   {"cos_sim", r.means.cos_sim.at(c, v)},
          {"rel_l1", r.means.rel_l1.at(c, v)}, {"rmse", r.means.rmse.at(c, v)},
          {"error", r.means.error.at(c, v)},   {"cost", r.designer.costs.grid.at(c, v)}};
    }
    cells.push_back(std::move(j));
  }
  return cells;
}

json stability_json(const Bootstrap& b) {
  json j{{"replicates", b.replicates}, {"samples", b.units}, {"warnings", b.warnings}};
  if (b.replicates > 0) j["kendall_tau"] = {{"mean", b.tau_mean}, {"low_5", b.tau_low}};
  return j;
}

json curve_json(const Curve& curve) {
  json j{{"falls", curve.falls}, {"smooth", curve.smooth}, {"findings", curve.findings}, {"points", json::array()}};
  for (const auto& p : curve.points) {
    j["points"].push_back(
        {{"moved", p.moved}, {"share", p.share}, {"paper", p.paper}, {"exact", p.exact}, {"random", p.random}});
  }
  return j;
}

json holdout_json(const Holdout& h) {
  json j{{"made_from", h.made_from},
         {"unseen", h.unseen},
         {"predicted", h.predicted},
         {"random_maps", h.random_maps},
         {"random_interval", {h.random_low, h.random_high}},
         {"maps", json::array()}};
  for (const auto& row : h.rows) {
    auto entry = summary_json(row.summary);
    entry["map"] = row.label;
    entry["regret"] = row.regret;
    j["maps"].push_back(std::move(entry));
  }
  return j;
}

json stages_json(const StageSensitivity& s) {
  json j{{"title", s.title}, {"variant", s.variant}, {"cells", json::array()}};
  for (const auto& cell : s.cells) {
    json row{{"layer", cell.layer},
             {"timestep", cell.timestep},
             {"sq_err", cell.errors.all},
             {"interaction", cell.errors.interaction()}};
    for (std::size_t i = 0; i < kStages.size(); ++i) {
      row["stages"][kStages[i]] = {{"share", cell.errors.share(i)}, {"saved_without", cell.errors.saved(i)}};
    }
    j["cells"].push_back(std::move(row));
  }
  return j;
}

}  // namespace

json rank_json(const RankResult& r) {
  const CellTable& t = r.table();
  json j{{"schema", "sage2-rank/1"},
         {"model", t.model},
         {"base", r.name_of(0)},
         {"fallback", r.name_of(1)},
         {"rule", describe_rule(r)},
         {"pooling", to_string(r.designer.request.pooling)},
         {"metric", to_string(r.designer.request.metric)},
         {"samples", t.units},
         {"devices", t.devices},
         {"costs",
          {{"unit", r.designer.costs.unit}, {"source", r.designer.costs.source}, {"notes", r.designer.costs.notes}}},
         {"summary",
          {{"map", summary_json(r.map)},
           {"all_base", summary_json(r.all_base)},
           {"all_fallback", summary_json(r.all_fallback)}}},
         {"stability", stability_json(r.stability)},
         {"curve", curve_json(r.curve)},
         {"cells", cells_json(r)}};
  for (const auto& v : t.variants) j["variants"][v.name] = v.variant;
  if (r.design.budget) {
    const auto& b = *r.design.budget;
    j["budget"] = {{"cost", b.cost},       {"error", b.error},           {"bound", b.bound},
                   {"gap", b.gap},         {"multiplier", b.multiplier}, {"proved", b.proved},
                   {"open", b.open_items}, {"states", b.states}};
  }
  if (r.holdout) j["holdout"] = holdout_json(*r.holdout);
  if (r.stages) j["stages"] = stages_json(*r.stages);
  return j;
}

}  // namespace sage2
