#include "reports/html_page.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <string_view>

#include "fmt/format.h"
#include "report_page.hpp"
#include "reports/detail_tables.hpp"
#include "reports/report_document.hpp"
#include "reports/report_tables.hpp"
#include "reports/stages.hpp"

namespace sage2 {
namespace {

using nlohmann::json;

/// Four digits are all that is read, and keep the page small.
json rounded(double value) {
  if (!std::isfinite(value)) return {};
  return std::strtod(fmt::format("{:.4g}", value).c_str(), nullptr);
}

/// Where a model's cells stand: layer-major.
struct Grid {
  std::map<int, std::string> layers;  ///< index and name
  std::map<int, double> steps;        ///< index and value

  [[nodiscard]] std::size_t size() const { return layers.size() * steps.size(); }
  [[nodiscard]] std::size_t at(int layer, int step) const {
    const auto y = std::distance(layers.begin(), layers.find(layer));
    const auto x = std::distance(steps.begin(), steps.find(step));
    return static_cast<std::size_t>(y) * steps.size() + static_cast<std::size_t>(x);
  }
};

Grid grid_of(const ModelCells& model) {
  Grid grid;
  for (const auto& v : model.variants) {
    for (const auto& c : v.cells) {
      grid.layers.emplace(c.layer, c.layer_name);
      grid.steps.emplace(c.timestep, c.timestep_value);
    }
  }
  return grid;
}

/// The worst `most` heads of a cell (all of them if fewer), worst first: [head, 1 - cos_sim, rel_l1, rmse, max_abs].
json heads_json(const CellStats& cell, std::size_t most) {
  std::vector<const HeadCell*> heads;
  for (const auto& h : cell.heads) heads.push_back(&h);
  // NaN first: it is worse than any number.
  const auto badness = [](const HeadCell* h) { return std::isnan(h->metrics.cos_sim) ? -2.0 : h->metrics.cos_sim; };
  std::stable_sort(heads.begin(), heads.end(), [&](const auto* a, const auto* b) { return badness(a) < badness(b); });
  if (heads.size() > most) heads.resize(most);
  json rows = json::array();
  for (const auto* h : heads) {
    const auto& m = h->metrics;
    rows.push_back({h->head, rounded(1 - m.cos_sim), rounded(m.rel_l1), rounded(m.rmse), rounded(m.max_abs)});
  }
  return rows;
}

json variant_json(const std::string& label, const VariantCells& v, const Grid& grid, std::size_t heads) {
  json values = json::object();
  for (const auto& metric : kMetrics) values[metric.name] = std::vector<json>(grid.size());
  json head_rows = std::vector<json>(grid.size());
  json head_counts = std::vector<std::size_t>(grid.size());
  json samples = std::vector<std::size_t>(grid.size());
  for (const auto& c : v.cells) {
    const auto i = grid.at(c.layer, c.timestep);
    for (const auto& metric : kMetrics) values[metric.name][i] = rounded(as_error(metric, c.metrics));
    head_rows[i] = heads_json(c, heads);
    head_counts[i] = c.heads.size();
    samples[i] = c.samples.size();
  }
  return {{"id", v.variant},
          {"label", label},
          {"values", std::move(values)},
          {"heads", head_rows},
          {"head_counts", head_counts},
          {"samples", samples}};
}

json table_json(const NamedTable& named, const std::map<std::string, std::size_t>& variants, const Grid& grid) {
  const auto& t = named.printed;
  json columns = json::array();
  for (const auto& c : t.columns) {
    columns.push_back({{"title", c.title}, {"group", c.group}, {"left", c.align == Align::left}});
  }
  json best = json::array();
  for (const auto& p : t.marked) best.push_back({p.row, p.column});
  json links = json::array();
  for (const auto& l : named.links) {
    const auto found = variants.find(l.variant);
    links.push_back(found == variants.end() ? json() : json{found->second, grid.at(l.layer, l.timestep)});
  }
  return {{"title", named.topic}, {"columns", columns}, {"rows", t.rows},
          {"best", best},         {"notes", t.notes},   {"link_column", named.link_column},
          {"links", links}};
}

/// The few numbers a reader wants first.
json tiles_json(const Report& report, const ModelCells& model) {
  json tiles = json::array();
  const auto rows = summarise(model, report.variants);
  const auto percent = [](double x) { return fmt::format("{:.2f}%", 100 * x); };
  if (const auto adaptive = adaptive_rows(report, model); !adaptive.empty()) {
    for (const auto& r : adaptive)
      tiles.push_back({percent(r.average.cos_sim), fmt::format("average CosSim, {}", r.label)});
    tiles.push_back({percent(adaptive.front().worst.cos_sim),
                     fmt::format("CosSim of its worst cell, {}", adaptive.front().worst_cell)});
    return tiles;
  }
  const auto by_average = [](const VariantSummary& a, const VariantSummary& b) {
    return !std::isnan(b.average.cos_sim) && (std::isnan(a.average.cos_sim) || a.average.cos_sim < b.average.cos_sim);
  };
  const auto [last, best] = std::minmax_element(rows.begin(), rows.end(), by_average);
  tiles.push_back({percent(best->average.cos_sim), "best average CosSim, " + best->label});
  if (rows.size() > 1) {
    tiles.push_back({percent(last->average.cos_sim), "lowest average CosSim, " + last->label});
    tiles.push_back({percent(last->worst.cos_sim), fmt::format("its worst cell, {}", last->worst_cell)});
  }
  return tiles;
}

json model_json(const Report& report, const ModelCells& model, const std::vector<PlacedTable>& tables,
                std::size_t heads) {
  const auto grid = grid_of(model);
  json layers = json::array();
  for (const auto& [index, name] : grid.layers) layers.push_back({{"index", index}, {"name", name}});
  json steps = json::array();
  for (const auto& [index, value] : grid.steps) steps.push_back({{"index", index}, {"value", value}});
  json variants = json::array();
  std::map<std::string, std::size_t> order;
  for (const auto& row : report.variants) {
    const auto* v = model.find(row.variant);
    if (v == nullptr) continue;
    order[row.variant] = variants.size();
    variants.push_back(variant_json(row.label, *v, grid, heads));
  }
  json shown = json::array();
  const auto suites = suite_tables(report, model).size();
  for (const auto& placed : tables) {
    if (placed.model != model.slug) continue;
    shown.push_back(table_json(placed.table, order, grid));
    shown.back()["suite"] = shown.size() <= suites;
  }
  json stages = json::array();
  for (const auto& s : shown_suites(report, model)) {
    const auto a = analyse_stages(model, *s.suite);
    if (!a) continue;
    json bars = json::array();
    const auto add_bar = [&](const StageShares& b) {
      json shares = json::array();
      for (const double x : b.shares) shares.push_back(rounded(x));
      bars.push_back({{"name", b.name}, {"shares", shares}, {"interaction", rounded(b.interaction)}});
    };
    add_bar(a->whole);
    for (const auto& layer : a->layers) add_bar(layer);
    stages.push_back({{"title", s.suite->title}, {"stages", a->stages}, {"bars", bars}});
  }
  const auto pair = base_pair(model, report.map);
  return {{"slug", model.slug},
          {"title", model.title},
          {"captures", model.captures},
          {"extent", extent_of(model)},
          {"findings", findings(report, model)},
          {"tiles", tiles_json(report, model)},
          {"layers", layers},
          {"steps", steps},
          {"variants", variants},
          {"first", pair ? order.at(pair->base->variant) : 0},
          {"tables", shown},
          {"stages", stages}};
}

/// Heads that each cell may keep so that a page stays within `kMostHeadRows`.
std::size_t heads_per_cell(const Report& report) {
  std::size_t cells = 0;
  std::size_t rows = 0;
  for (const auto& model : report.models) {
    for (const auto& v : model.variants) {
      for (const auto& c : v.cells) {
        ++cells;
        rows += c.heads.size();
      }
    }
  }
  return rows <= kMostHeadRows ? SIZE_MAX : std::max<std::size_t>(1, kMostHeadRows / cells);
}

/// "</script>" or "<!--" inside the data would end the script or change its meaning; JSON may spell "<" otherwise.
std::string script_safe(const std::string& text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    if (c == '<') {
      out += "\\u003c";
    } else {
      out += c;
    }
  }
  return out;
}

/// The template with the text for each "{{name}}"; what is filled in is not looked at again.
std::string filled(std::string_view rest, const std::map<std::string_view, std::string_view>& parts) {
  std::string out;
  for (auto open = rest.find("{{"); open != std::string_view::npos; open = rest.find("{{")) {
    const auto close = rest.find("}}", open);
    out += rest.substr(0, open);
    out += parts.at(rest.substr(open + 2, close - open - 2));
    rest.remove_prefix(close + 2);
  }
  out += rest;
  return out;
}

}  // namespace

json html_data(const Report& report) {
  const auto tables = report_tables(report);
  const auto heads = heads_per_cell(report);
  json models = json::array();
  std::string names;
  for (const auto& model : report.models) {
    models.push_back(model_json(report, model, tables, heads));
    names += names.empty() ? model.title : fmt::format(", {}", model.title);
  }
  json metrics = json::array();
  for (const auto& m : kMetrics) metrics.push_back({{"name", m.name}, {"label", m.label}});
  json data{{"title", "Accuracy of low-bit attention: " + names},
            {"remarks", report.remarks},
            {"metrics", metrics},
            {"models", models},
            {"provenance", provenance(report)}};
  if (!report.bench.empty()) data["speed"] = table_json(speed_table(report), {}, {});
  return data;
}

std::string html_page(const Report& report) {
  const auto data = script_safe(html_data(report).dump());
  return filled(page::report_html, {{"style", page::report_css}, {"script", page::report_js}, {"data", data}});
}

}  // namespace sage2
