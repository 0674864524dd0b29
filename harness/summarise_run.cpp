#include "harness/summarise_run.hpp"

#include <algorithm>
#include <map>

#include "fmt/format.h"
#include "reports/model_cells.hpp"
#include "reports/summary.hpp"

namespace sage2 {
namespace {

using nlohmann::json;

/// Suites, and in front of them the variants that no suite names.
std::vector<SuiteInfo> sections(const RunInfo& info, const std::optional<AdaptiveMap>& map) {
  SuiteInfo named{"variants", "Variants", {}};
  for (const auto& v : info.variants) {
    const auto in_suite = [&](const SuiteInfo& s) {
      return std::any_of(s.rows.begin(), s.rows.end(), [&](const SuiteRow& r) { return r.variant == v.variant; });
    };
    if (std::none_of(info.suites.begin(), info.suites.end(), in_suite)) named.rows.push_back(v);
  }
  std::vector<SuiteInfo> all;
  if (!named.rows.empty()) all.push_back(std::move(named));
  all.insert(all.end(), info.suites.begin(), info.suites.end());
  if (map) {
    SuiteInfo mixed{"map", "The adaptive map, as evaluated", {{"map", "map"}}};
    for (const auto& [name, spelling] : map->variants) mixed.rows.push_back({name, spelling});
    all.push_back(std::move(mixed));
  }
  return all;
}

/// The map as one more variant, made of each cell's mapped one.
VariantCells mapped_cells(const ModelCells& model, const AdaptiveMap& map) {
  std::map<std::pair<int, int>, const CellStats*> chosen;
  for (const auto& variant : model.variants) {
    for (const auto& cell : variant.cells) {
      if (look_up(map, cell.layer, cell.timestep).variant == variant.variant) {
        chosen[{cell.layer, cell.timestep}] = &cell;
      }
    }
  }
  VariantCells mix{"map", "map", {}};
  for (const auto& [place, cell] : chosen) mix.cells.push_back(*cell);
  return mix;
}

std::vector<ModelCells> cells_of(const Run& run, const std::optional<AdaptiveMap>& map) {
  CellCollector collector;
  for (auto record : run.records) collector.add(std::move(record));
  auto models = collector.finish();
  if (map) {
    for (auto& model : models) {
      // Variants are kept in the order of their spelling.
      const auto after = [](const VariantCells& v) { return v.variant > "map"; };
      const auto place = std::find_if(model.variants.begin(), model.variants.end(), after);
      model.variants.insert(place, mapped_cells(model, *map));
    }
  }
  return models;
}

/// The rows of a section that have records. Beside the map stand only variants that cover all of its cells.
std::vector<VariantSummary> section_rows(const ModelCells& model, const SuiteInfo& section) {
  auto rows = summarise(model, section.rows);
  if (section.name != "map" || rows.empty()) return rows;
  const auto cells = rows.front().cells;
  std::erase_if(rows, [&](const VariantSummary& row) { return row.cells < cells; });
  return rows;
}

json metrics_json(const ErrorMetrics& m) {
  return {{"cos_sim", m.cos_sim}, {"rel_l1", m.rel_l1}, {"rmse", m.rmse}, {"max_abs", m.max_abs},
          {"p50", m.p50},         {"p90", m.p90},       {"p99", m.p99},   {"p999", m.p999}};
}

}  // namespace

std::string run_tables(const Run& run, const std::optional<AdaptiveMap>& map) {
  std::string out;
  for (const auto& model : cells_of(run, map)) {
    for (const auto& suite : sections(run.info, map)) {
      const auto rows = section_rows(model, suite);
      if (rows.empty()) continue;
      if (!out.empty()) out += '\n';
      out += to_text(summary_table(fmt::format("{}\n{}", model.title, suite.title), rows));
    }
  }
  return out;
}

std::string run_json(const Run& run, const std::optional<AdaptiveMap>& map) {
  json out{{"run", run.folder.string()}, {"models", json::array()}, {"errors", run.errors}};
  for (const auto& model : cells_of(run, map)) {
    json suites = json::array();
    for (const auto& suite : sections(run.info, map)) {
      json rows = json::array();
      for (const auto& row : section_rows(model, suite)) {
        rows.push_back({{"label", row.label},
                        {"variant", row.variant},
                        {"cells", row.cells},
                        {"average", metrics_json(row.average)},
                        {"worst", metrics_json(row.worst)},
                        {"worst_cell", row.worst_cell},
                        {"nonfinite_cells", row.nonfinite_cells},
                        {"p_underflow", row.counts.p_underflow},
                        {"p_total", row.counts.p_total},
                        {"saturated", row.counts.saturated},
                        {"seconds", row.seconds}});
      }
      if (!rows.empty()) suites.push_back({{"name", suite.name}, {"title", suite.title}, {"rows", rows}});
    }
    out["models"].push_back({{"title", model.title}, {"captures", model.captures}, {"suites", suites}});
  }
  return out.dump(1) + '\n';
}

}  // namespace sage2
