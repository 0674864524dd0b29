#include <algorithm>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "reports/rank_text.hpp"
#include "reports/table.hpp"
#include "reports/wrap.hpp"

namespace sage2 {
namespace {

std::size_t find_cell(const CellTable& table, int layer, int timestep) {
  for (std::size_t c = 0; c < table.cells.size(); ++c) {
    if (table.cells[c].layer == layer && table.cells[c].timestep == timestep) return c;
  }
  throw UsageError(fmt::format("there is no cell at layer {}, timestep {}", layer, timestep));
}

/// What was decided as one with this cell.
std::string group_label(const RankResult& r, const Cell& cell) {
  switch (r.designer.request.pooling) {
    case Pooling::layer:
      return fmt::format("layer {} as a whole", cell.layer);
    case Pooling::timestep:
      return fmt::format("timestep {} as a whole", cell.timestep);
    default:
      return "the cell";
  }
}

std::string why_by_rank(const RankResult& r, const Cell& cell, std::size_t group) {
  const auto& request = r.designer.request;
  const auto order = ascending(r.group_ranking);
  const auto place = std::find(order.begin(), order.end(), group) - order.begin();
  const double value = r.group_ranking[group];
  const std::string label = group_label(r, cell);
  if (request.rule == Rule::first_last) {
    return wrapped(fmt::format(
        "The rule looks at the timestep only: the first and last {:g} captured ones run the fallback.", request.value));
  }
  const char* what = request.rule == Rule::cosine ? "cosine similarity" : "score";
  std::string out =
      fmt::format("By {}, {} is {} of {} from the bottom ({:.6f}).\n", what, label, place + 1, order.size(), value);
  if (request.rule != Rule::fraction) return out + fmt::format("The threshold is {:g}.\n", request.value);
  const std::size_t count = fraction_count(request.value, order.size());
  out += fmt::format("The lowest {} run the fallback", count);
  if (count > 0 && count < order.size()) {
    out += fmt::format("; the line lies between {:.6f} and {:.6f}", r.group_ranking[order[count - 1]],
                       r.group_ranking[order[count]]);
  }
  return out + ".\n";
}

std::string why_by_budget(const RankResult& r, const Cell& cell, std::size_t group) {
  const auto items = budget_items(r.designer.groups, r.designer.costs.grid, r.means.error);
  const auto& solution = *r.design.budget;
  const BudgetOption& taken = items[group][solution.chosen[group]];
  const std::string label = group_label(r, cell);
  const std::string& unit = r.designer.costs.unit;
  const char* metric = to_string(r.designer.request.metric);
  std::string out =
      r.designer.request.rule == Rule::max_cost
          ? fmt::format("At the margin one {} saves {:.4g} of the summed {}.\n", unit, solution.multiplier, metric)
          : fmt::format("At the margin 1 of the summed {} costs {:.4g} {}.\n", metric, solution.multiplier, unit);
  for (std::size_t v = 0; v < items[group].size(); ++v) {
    if (v == solution.chosen[group]) continue;
    const double saves = taken.error - items[group][v].error;
    const double costs = items[group][v].cost - taken.cost;
    const std::string ratio = saves * costs > 0 ? fmt::format(", {:.4g} per {}", saves / costs, unit) : "";
    out +=
        wrapped(fmt::format("Running {} in {} instead would change the error by {:+.4g} and the cost by {:+.4g} {}{}.",
                            label, r.name_of(v), -saves, costs, unit, ratio));
  }
  return out;
}

std::string variants_table(const RankResult& r, std::size_t c) {
  Table table;
  table.columns = {{"variant"}};
  for (const char* title : {"score", "CosSim", "RelL1", "RMSE"}) table.columns.push_back({title, Align::right});
  table.columns.push_back({r.designer.costs.unit, Align::right});
  table.columns.push_back({""});
  for (std::size_t v = 0; v < r.table().variants.size(); ++v) {
    table.rows.push_back({r.name_of(v), fmt::format("{:.6f}", r.means.score.at(c, v)),
                          fmt::format("{:.4f}%", 100 * r.means.cos_sim.at(c, v)),
                          fmt::format("{:.5f}", r.means.rel_l1.at(c, v)), fmt::format("{:.5g}", r.means.rmse.at(c, v)),
                          fmt::format("{:.4g}", r.designer.costs.grid.at(c, v)),
                          v == r.design.choice[c] ? "runs here" : ""});
  }
  return to_text(table);
}

std::string spread_of_samples(const RankResult& r, std::size_t c) {
  const Cell& cell = r.table().cells[c];
  double low = paper_score(r.table().at(c, 0, 0));
  double high = low;
  for (std::size_t s = 1; s < cell.samples(); ++s) {
    low = std::min(low, paper_score(r.table().at(c, s, 0)));
    high = std::max(high, paper_score(r.table().at(c, s, 0)));
  }
  std::string out = fmt::format("{} sample{}, scores of {} from {:.6f} to {:.6f}.\n", cell.samples(),
                                cell.samples() == 1 ? "" : "s", r.name_of(0), low, high);
  if (!r.stability.low.empty()) {
    out += wrapped(fmt::format("95 % interval of the mean {:.6f} to {:.6f}; {:.0f} % of the resampled maps agree.",
                               r.stability.low[c], r.stability.high[c], 100 * r.stability.agreement[c]));
  }
  return out;
}

std::string stages_of_cell(const RankResult& r, const Cell& cell) {
  for (const auto& s : r.stages->cells) {
    if (s.layer != cell.layer || s.timestep != cell.timestep) continue;
    return '\n' + to_text(sensitivity_table({r.stages->title, r.stages->variant, {s}}));
  }
  return "";
}

}  // namespace

std::string explain_text(const RankResult& r, int layer, int timestep) {
  const std::size_t c = find_cell(r.table(), layer, timestep);
  const Cell& cell = r.table().cells[c];
  const std::size_t group = r.designer.groups.of_cell[c];
  std::string out = wrapped(fmt::format("Layer {} ({}), timestep {} runs {}", layer, cell.layer_name, timestep,
                                        r.name_of(r.design.choice[c])));
  out += wrapped("Rule: " + describe_rule(r) + ".");
  out += r.design.budget ? why_by_budget(r, cell, group) : why_by_rank(r, cell, group);
  out += spread_of_samples(r, c) + '\n' + variants_table(r, c);
  if (r.stages) out += stages_of_cell(r, cell);
  return out;
}

}  // namespace sage2
