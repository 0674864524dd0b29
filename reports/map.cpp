#include "reports/map.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <initializer_list>
#include <utility>

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

/// Through a temporary name, so that a reader never sees half a file and a full disk leaves the old one.
void write_whole(const fs::path& file, const std::string& text) {
  fs::path temporary = file;
  temporary += ".part";
  std::ofstream out(temporary, std::ios::binary);
  out << text;
  out.close();
  std::error_code failed;
  if (out) {
    fs::rename(temporary, file, failed);
    if (!failed) return;
  }
  fs::remove(temporary, failed);
  throw DataError(fmt::format("{}: cannot be written", file.string()));
}

/// "{"a": 1, "b": 2}" in the order of `keys`, which a reader prefers to the alphabet's.
std::string in_order(const json& object, std::initializer_list<const char*> keys, const char* separator) {
  std::string out;
  for (const char* key : keys)
    out += fmt::format("{}\"{}\": {}", out.empty() ? "" : separator, key, object.at(key).dump());
  return out;
}

/// One cell a line, so that two maps can be compared line by line.
std::string text_of(const AdaptiveMap& map) {
  const json j = map;
  std::string cells;
  for (const auto& cell : j.at("cells")) {
    cells += fmt::format(
        "{}\n  {{{}}}", cells.empty() ? "" : ",",
        in_order(cell, {"layer", "layer_name", "timestep", "timestep_value", "score", "error", "variant"}, ", "));
  }
  return fmt::format(
      "{{\n {},\n \"cells\": [{}\n ]\n}}\n",
      in_order(j, {"schema", "model", "base", "fallback", "variants", "rule", "predicted", "provenance"}, ",\n "),
      cells);
}

void check(const AdaptiveMap& map, const fs::path& file) {
  if (map.cells.empty()) throw DataError(fmt::format("{}: holds no cells", file.string()));
  for (const auto& cell : map.cells) {
    if (map.variants.contains(cell.variant)) continue;
    throw DataError(fmt::format("{}: layer {}, timestep {} runs \"{}\", which \"variants\" does not define",
                                file.string(), cell.layer, cell.timestep, cell.variant));
  }
}

}  // namespace

void to_json(json& j, const AdaptiveMap& m) {
  j = json{{"schema", kMapSchema},     {"model", m.model},           {"base", m.base},
           {"fallback", m.fallback},   {"variants", m.variants},     {"rule", m.rule},
           {"predicted", m.predicted}, {"provenance", m.provenance}, {"cells", json::array()}};
  for (const auto& c : m.cells) {
    j["cells"].push_back({{"layer", c.layer},
                          {"layer_name", c.layer_name},
                          {"timestep", c.timestep},
                          {"timestep_value", c.timestep_value},
                          {"score", c.score},
                          {"error", c.error},
                          {"variant", c.variant}});
  }
}

void from_json(const json& j, AdaptiveMap& m) {
  m = {};
  m.model = j.value("model", "");
  j.at("base").get_to(m.base);
  j.at("fallback").get_to(m.fallback);
  j.at("variants").get_to(m.variants);
  m.rule = j.value("rule", json::object());
  m.predicted = j.value("predicted", json::object());
  m.provenance = j.value("provenance", json::object());
  for (const auto& c : j.at("cells")) {
    m.cells.push_back({c.at("layer").get<int>(), c.value("layer_name", ""), c.at("timestep").get<int>(),
                       c.value("timestep_value", 0.0), c.value("score", 0.0), c.value("error", 0.0),
                       c.at("variant").get<std::string>()});
  }
  std::sort(m.cells.begin(), m.cells.end(), [](const MapCell& a, const MapCell& b) {
    return std::pair(a.layer, a.timestep) < std::pair(b.layer, b.timestep);
  });
}

const MapCell* AdaptiveMap::find(int layer, int timestep) const {
  const auto wanted = std::pair(layer, timestep);
  const auto it = std::lower_bound(cells.begin(), cells.end(), wanted, [](const MapCell& c, const auto& key) {
    return std::pair(c.layer, c.timestep) < key;
  });
  return it != cells.end() && it->layer == layer && it->timestep == timestep ? &*it : nullptr;
}

MapAnswer look_up(const AdaptiveMap& map, int layer, int timestep) {
  const MapCell* best = nullptr;
  const auto distance = [&](const MapCell& c) { return std::abs(c.timestep - timestep); };
  for (const auto& cell : map.cells) {
    if (cell.layer != layer) continue;
    if (best == nullptr || distance(cell) < distance(*best) ||
        (distance(cell) == distance(*best) && cell.timestep < best->timestep)) {
      best = &cell;
    }
  }
  if (best == nullptr) throw UsageError(fmt::format("the map has no layer {}", layer));
  return {best->variant, map.variants.at(best->variant), best->timestep, best->timestep == timestep};
}

AdaptiveMap read_map(const fs::path& file) {
  std::ifstream in(file);
  if (!in) throw DataError(fmt::format("{}: cannot be opened", file.string()));
  try {
    const auto j = json::parse(in);
    const auto schema = j.at("schema").get<std::string>();
    if (schema != kMapSchema) {
      throw DataError(fmt::format("{}: expected schema \"{}\", found \"{}\"", file.string(), kMapSchema, schema));
    }
    auto map = j.get<AdaptiveMap>();
    check(map, file);
    return map;
  } catch (const json::exception& e) {
    throw DataError(fmt::format("{}: not an adaptive map: {}", file.string(), e.what()));
  }
}

fs::path write_map(const fs::path& file, const AdaptiveMap& map) {
  std::string cells;
  for (const auto& c : map.cells) {
    if (c.variant != map.base) cells += fmt::format("{} {}\n", c.layer, c.timestep);
  }
  auto list = file.parent_path() / "int8_cells.txt";
  if (!file.parent_path().empty()) {
    std::error_code failed;
    fs::create_directories(file.parent_path(), failed);
    if (failed) throw DataError(fmt::format("{}: cannot be created", file.parent_path().string()));
  }
  write_whole(file, text_of(map));
  write_whole(list, cells);
  return list;
}

}  // namespace sage2
