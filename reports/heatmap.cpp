#include "reports/heatmap.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "fmt/format.h"

namespace sage2 {
namespace {

constexpr std::size_t kWide = 6;    // " .443#"
constexpr std::size_t kMedium = 3;  // " 4#"
constexpr std::size_t kNarrow = 1;  // "4" or "#"

char mark_of(std::size_t choice) {
  if (choice == 0) return '.';
  if (choice == 1) return '#';
  return static_cast<char>('A' + std::min<std::size_t>(choice - 2, 25));
}

/// Four characters: ".443", "1.00", "-.12".
std::string short_score(double score) {
  if (score < -9.9) return "<-9 ";
  std::string text = fmt::format("{:.{}f}", score, score < 0 || score >= 0.9995 ? 2 : 3);
  if (const auto zero = text.find("0."); zero != std::string::npos && (zero == 0 || text[zero - 1] == '-')) {
    text.erase(zero, 1);
  }
  text.resize(4, ' ');
  return text;
}

char digit_of(double score) {
  return static_cast<char>('0' + std::clamp(static_cast<int>(score * 10), 0, 9));
}

std::string cell_text(const HeatCell& cell, std::size_t width) {
  if (width == kWide) return fmt::format(" {}{}", short_score(cell.score), mark_of(cell.choice));
  if (width == kMedium) return fmt::format(" {}{}", digit_of(cell.score), mark_of(cell.choice));
  return std::string(1, cell.choice == 0 ? digit_of(cell.score) : mark_of(cell.choice));
}

/// Red over yellow to green in the 6x6x6 cube of 256-colour terminals, black letters on it.
std::string coloured(const std::string& text, double score, double low, double high) {
  static constexpr std::array<int, 11> scale{196, 202, 208, 214, 220, 226, 190, 154, 118, 82, 46};
  const double position = high > low ? (score - low) / (high - low) : 1.0;
  const auto index = static_cast<std::size_t>(std::lround(std::clamp(position, 0.0, 1.0) * (scale.size() - 1)));
  return fmt::format("\x1b[48;5;{};38;5;16m{}\x1b[0m", scale[index], text);
}

/// Timesteps above the ends of their columns, as many as fit without touching.
std::string ruler(const std::vector<int>& timesteps, std::size_t per_column, std::size_t label, std::size_t width) {
  std::string line;
  for (std::size_t t = 0; t < timesteps.size(); t += per_column) {
    const std::string number = std::to_string(timesteps[t]);
    // The mark of a cell stands to the right of its number.
    const std::size_t end = label + (t / per_column + 1) * width - (width == kNarrow ? 0 : 1);
    const std::size_t taken = line.empty() ? 0 : line.size() + 1;
    if (end < taken + number.size()) continue;
    line.resize(end - number.size(), ' ');
    line += number;
  }
  return line;
}

std::string legend(const std::vector<HeatCell>& cells, const std::vector<std::string>& names, std::size_t width,
                   std::size_t per_column, std::size_t columns) {
  std::vector<std::string> parts;
  std::vector<std::size_t> used(names.size(), 0);
  for (const auto& cell : cells) ++used[cell.choice];
  for (std::size_t v = 0; v < names.size(); ++v) {
    parts.push_back(fmt::format("{} {} ({})", mark_of(v), names[v], used[v]));
  }
  if (width != kWide) parts.emplace_back("digits: tenths of the score");
  if (width == kNarrow) parts.emplace_back("a digit alone runs the base");
  if (per_column > 1) parts.push_back(fmt::format("{} timesteps a column, the lowest score shown", per_column));
  std::string out;
  std::size_t used_columns = 0;
  for (const auto& part : parts) {
    if (used_columns != 0 && used_columns + 3 + part.size() > columns) {
      out += '\n';
      used_columns = 0;
    }
    out += (used_columns == 0 ? "" : "   ") + part;
    used_columns += (used_columns == 0 ? 0 : 3) + part.size();
  }
  return out + '\n';
}

}  // namespace

std::string heat_map(const std::vector<HeatCell>& cells, const std::vector<std::string>& names,
                     const HeatMapOptions& options) {
  if (cells.empty()) return "";
  std::set<int> steps;
  for (const auto& cell : cells) steps.insert(cell.timestep);
  const std::vector<int> timesteps(steps.begin(), steps.end());
  std::map<int, std::size_t> column_of;
  const std::size_t label = std::max<std::size_t>(5, std::to_string(cells.back().layer).size());
  const std::size_t room = std::max<std::size_t>(options.columns, label + 7) - label;
  const std::size_t width = timesteps.size() * kWide <= room     ? kWide
                            : timesteps.size() * kMedium <= room ? kMedium
                                                                 : kNarrow;
  // One column stays free between label and cells in the narrow form, the others carry their own space.
  const std::size_t margin = width == kNarrow ? 1 : 0;
  const std::size_t fitting = (room - margin) / width;
  const std::size_t per_column = (timesteps.size() + fitting - 1) / fitting;
  for (std::size_t t = 0; t < timesteps.size(); ++t) column_of[timesteps[t]] = t / per_column;
  const std::size_t drawn = (timesteps.size() + per_column - 1) / per_column;

  const auto [low, high] = std::minmax_element(cells.begin(), cells.end(),
                                               [](const HeatCell& a, const HeatCell& b) { return a.score < b.score; });
  std::map<int, std::vector<std::optional<HeatCell>>> rows;
  for (const auto& cell : cells) {
    auto& row = rows[cell.layer];
    row.resize(drawn);
    auto& slot = row[column_of[cell.timestep]];
    if (!slot || cell.score < slot->score) slot = cell;
  }
  std::string out = fmt::format("{:>{}}  timestep\n", "layer", label);
  out += ruler(timesteps, per_column, label + margin, width) + '\n';
  for (const auto& [layer, row] : rows) {
    out += fmt::format("{:>{}}{}", layer, label, std::string(margin, ' '));
    for (const auto& slot : row) {
      const std::string text = slot ? cell_text(*slot, width) : std::string(width, ' ');
      out += slot && options.colour ? coloured(text, slot->score, low->score, high->score) : text;
    }
    out.erase(out.find_last_not_of(' ') + 1);
    out += '\n';
  }
  return out + legend(cells, names, width, per_column, options.columns);
}

}  // namespace sage2
