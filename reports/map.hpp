#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

/// The adaptive map as a file: map.json (schema "sage2-map/1", docs/schemas/sage2-map-1.schema.json) and, for scripts
/// that want nothing more, int8_cells.txt.
namespace sage2 {

inline constexpr const char* kMapSchema = "sage2-map/1";

struct MapCell {
  int layer = 0;
  std::string layer_name;
  int timestep = 0;
  double timestep_value = 0;
  double score = 0;     ///< of the base: mean over samples of cos_sim * (1 - rel_l1)
  double error = 0;     ///< predicted under the map, in the rule's metric
  std::string variant;  ///< name of what runs here
};

struct AdaptiveMap {
  std::string model;
  std::string base, fallback;
  std::map<std::string, std::string> variants;  ///< name to canonical spelling, of everything that may run
  nlohmann::json rule;
  std::vector<MapCell> cells;  ///< ascending by layer, then timestep
  nlohmann::json predicted;    ///< share of the fallback, mean and worst errors, cost
  nlohmann::json provenance;

  /// The cell itself, nullptr where it was not captured.
  [[nodiscard]] const MapCell* find(int layer, int timestep) const;
};

void to_json(nlohmann::json& j, const AdaptiveMap& m);
void from_json(const nlohmann::json& j, AdaptiveMap& m);

/// What a cell runs. A timestep that was not captured takes the nearest that was, the earlier one where two are as
/// near; `timestep` says which it was.
struct MapAnswer {
  std::string name;       ///< for example "sage2-8b"
  std::string variant;    ///< its canonical spelling
  int timestep = 0;       ///< the captured timestep that answered
  bool captured = false;  ///< it is the one asked for
};

/// Throws UsageError where the map does not have the layer.
[[nodiscard]] MapAnswer look_up(const AdaptiveMap& map, int layer, int timestep);

/// Throws DataError naming the file where it is no map, has no cell, names a variant it does not define, or is of a
/// newer schema.
[[nodiscard]] AdaptiveMap read_map(const std::filesystem::path& file);

/// Writes `file` and int8_cells.txt beside it ("layer timestep" a line: the cells that do not run the base), each whole
/// or not at all. Returns the path of the second. Throws DataError where they cannot be written.
std::filesystem::path write_map(const std::filesystem::path& file, const AdaptiveMap& map);

}  // namespace sage2
