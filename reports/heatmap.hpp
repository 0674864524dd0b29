#pragma once

#include <string>
#include <vector>

/// Layers down, timesteps across, for a terminal.
namespace sage2 {

struct HeatCell {
  int layer = 0;
  int timestep = 0;
  double score = 0;
  std::size_t choice = 0;  ///< 0 is the base
};

struct HeatMapOptions {
  bool colour = false;  ///< 256-colour backgrounds, red (lowest score shown) to green (highest)
  std::size_t columns = 80;
};

/// Draws the grid in at most `columns` columns. Where they fit, cells show their score in thousandths and a mark of
/// their variant; more timesteps show one digit (tenths of the score) and the mark, or the mark alone; what is still
/// too wide is binned, every column showing its lowest score. Marks: '.' the base, '#' the fallback, then A, B, ...
/// `names` are the variants for the legend. Cells must be in ascending order of layer, then timestep.
[[nodiscard]] std::string heat_map(const std::vector<HeatCell>& cells, const std::vector<std::string>& names,
                                   const HeatMapOptions& options = {});

}  // namespace sage2
