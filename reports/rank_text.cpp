#include "reports/rank_text.hpp"

#include <algorithm>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "reports/heatmap.hpp"
#include "reports/table.hpp"
#include "reports/wrap.hpp"

namespace sage2 {
namespace {

std::string percent(double share) {
  return fmt::format("{:.1f}%", 100 * share);
}

std::string header(const RankResult& r) {
  const CellTable& t = r.table();
  std::string out =
      wrapped(fmt::format("{}: {} cells, {} independent sample{}, {}", t.model.empty() ? "unnamed model" : t.model,
                          t.cells.size(), t.units, t.units == 1 ? "" : "s", fmt::join(t.devices, ", ")));
  out += wrapped("Rule: " + describe_rule(r));
  if (t.duplicates > 0) out += wrapped(fmt::format("{} records were there twice and count once.", t.duplicates));
  if (t.lengths_differ) out += wrapped("Samples of one cell differ in length; their costs are averaged.");
  return out;
}

std::string grid(const RankResult& r, bool colour) {
  std::vector<HeatCell> cells;
  for (std::size_t c = 0; c < r.table().cells.size(); ++c) {
    const Cell& cell = r.table().cells[c];
    cells.push_back({cell.layer, cell.timestep, r.means.score.at(c, 0), r.design.choice[c]});
  }
  std::vector<std::string> names;
  for (const auto& v : r.table().variants) names.push_back(v.name);
  return wrapped(fmt::format("Score = CosSim x (1 - RelL1) of {}; low is bad.", r.name_of(0))) +
         heat_map(cells, names, {colour, kTerminalColumns});
}

std::string worst_cells(const RankResult& r, std::size_t count) {
  const auto order = ascending(r.means.score.column(0));
  Table table;
  table.title = "Worst cells";
  const std::string metric = to_string(r.designer.request.metric);
  table.columns = {
      {"rank", Align::right},          {"layer", Align::right}, {"timestep", Align::right},   {"score", Align::right},
      {"95 % interval", Align::right}, {metric, Align::right},  {"in the map", Align::right}, {"runs", Align::left}};
  for (std::size_t i = 0; i < std::min(count, order.size()); ++i) {
    const std::size_t c = order[i];
    const Cell& cell = r.table().cells[c];
    const bool interval = !r.stability.low.empty();
    table.rows.push_back({std::to_string(i + 1), std::to_string(cell.layer), std::to_string(cell.timestep),
                          fmt::format("{:.4f}", r.means.score.at(c, 0)),
                          interval ? fmt::format("{:.4f} {:.4f}", r.stability.low[c], r.stability.high[c]) : "-",
                          fmt::format("{:#.4g}", r.means.error.at(c, 0)),
                          fmt::format("{:#.4g}", r.means.error.at(c, r.design.choice[c])),
                          r.name_of(r.design.choice[c])});
  }
  return to_text(table);
}

std::string summary(const RankResult& r) {
  Table table;
  table.title = "Predicted, over cells (mean and worst)";
  table.columns = {{"map"}};
  for (const char* title : {"not base", "RelL1", "worst", "CosSim", "worst", "RMSE", "speed"}) {
    table.columns.push_back({title, Align::right});
  }
  const auto add = [&](const std::string& label, const MapSummary& s) {
    table.rows.push_back({label, percent(s.other_share), fmt::format("{:.4f}", s.mean_rel_l1),
                          fmt::format("{:.4f}", s.worst_rel_l1), fmt::format("{:.3f}%", 100 * s.mean_cos_sim),
                          fmt::format("{:.3f}%", 100 * s.worst_cos_sim), fmt::format("{:.4f}", s.mean_rmse),
                          fmt::format("{:.3f}x", s.speedup)});
  };
  add("this map", r.map);
  add("all base", r.all_base);
  add("all fallback", r.all_fallback);
  const Metric metric = r.designer.request.metric;
  std::string out = to_text(table);
  if (metric != Metric::rel_l1 && metric != Metric::rmse) {
    out += fmt::format("{}: mean {:.4g}, worst {:.4g}\n", to_string(metric), r.map.mean_error, r.map.worst_error);
  }
  const std::string& unit = r.designer.costs.unit;
  out += wrapped(fmt::format("Speed is against all fallback: {:.4g} {} instead of {:.4g} {}, {}.", r.map.cost, unit,
                             r.all_fallback.cost, unit, r.designer.costs.source));
  for (const auto& note : r.designer.costs.notes) out += wrapped("  " + note + ".");
  return out;
}

std::string stability(const RankResult& r) {
  const Bootstrap& b = r.stability;
  std::string out;
  if (b.replicates > 0) {
    out +=
        wrapped(fmt::format("Ranking under resampling ({} times, {} samples): Kendall's tau {:.3f} on average, "
                            "{:.3f} in the lowest 5 %.",
                            b.replicates, b.units, b.tau_mean, b.tau_low));
  }
  for (const auto& w : b.warnings) out += wrapped("Warning: " + w + ".");
  return out;
}

std::string holdout(const RankResult& r) {
  const Holdout& h = *r.holdout;
  Table table;
  const std::string metric = to_string(r.designer.request.metric);
  table.title = fmt::format("On unseen samples (made from {}, tested on {})", h.made_from, h.unseen);
  table.columns = {{"map"}};
  for (const std::string& title : {std::string("not base"), metric, std::string("worst"), std::string("regret"),
                                   std::string("CosSim"), std::string("speed")}) {
    table.columns.push_back({title, Align::right});
  }
  const char* const labels[] = {"this map", "oracle", "random, mean", "all base", "all fallback"};
  for (std::size_t i = 0; i < h.rows.size(); ++i) {
    const auto& [name, s, regret] = h.rows[i];
    table.rows.push_back({labels[i], percent(s.other_share), fmt::format("{:#.5g}", s.mean_error),
                          fmt::format("{:#.5g}", s.worst_error), fmt::format("{:#.3g}", regret),
                          fmt::format("{:.3f}%", 100 * s.mean_cos_sim), fmt::format("{:.3f}x", s.speedup)});
  }
  std::string out = to_text(table);
  out +=
      wrapped(fmt::format("The oracle is the best map of the same cost, made with knowledge of the unseen samples; "
                          "95 % of {} random maps of the same size lie between {:.5g} and {:.5g}. On the samples it "
                          "was made from this map has {:.5g}.",
                          h.random_maps, h.random_low, h.random_high, h.predicted));
  return out;
}

std::string curve(const RankResult& r) {
  const auto& points = r.curve.points;
  Table table;
  table.title = fmt::format("Mean {} against the share of cells in the fallback{}",
                            to_string(r.designer.request.metric), r.holdout ? ", on unseen samples" : "");
  table.columns = {
      {"share", Align::right}, {"paper's rule", Align::right}, {"exact", Align::right}, {"random", Align::right}};
  std::size_t last = points.size();
  for (std::size_t tenth = 0; tenth <= 10; ++tenth) {
    const std::size_t k = (tenth * (points.size() - 1) + 5) / 10;
    if (k == last) continue;
    last = k;
    table.rows.push_back({percent(points[k].share), fmt::format("{:#.5g}", points[k].paper),
                          fmt::format("{:#.5g}", points[k].exact), fmt::format("{:#.5g}", points[k].random)});
  }
  std::string out = to_text(table);
  if (r.curve.falls && r.curve.smooth) out += "Checked at every step: all three fall, without a jump.\n";
  for (const auto& finding : r.curve.findings) out += wrapped("Warning: the curve " + finding + ".");
  return out;
}

}  // namespace

std::string rank_text(const RankResult& r, const RankTextOptions& options) {
  std::string out = header(r) + '\n' + grid(r, options.colour);
  if (options.worst > 0) out += '\n' + worst_cells(r, options.worst);
  out += '\n' + summary(r);
  out += '\n' + stability(r);
  if (r.holdout) out += '\n' + holdout(r);
  out += '\n' + curve(r);
  if (r.stages) out += '\n' + to_text(sensitivity_table(*r.stages));
  return out;
}

}  // namespace sage2
