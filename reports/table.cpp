#include "reports/table.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdlib>

namespace sage2 {
namespace {

/// Number of terminal cells, for text without combining or wide characters: code points, not bytes.
std::size_t width_of(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

std::string pad(const std::string& text, std::size_t width, Align align) {
  const std::string fill(width - std::min(width, width_of(text)), ' ');
  return align == Align::left ? text + fill : fill + text;
}

void append_line(std::string& out, std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  out += line + '\n';
}

bool is_marked(const Table& table, std::size_t row, std::size_t column) {
  return std::find(table.marked.begin(), table.marked.end(), TablePlace{row, column}) != table.marked.end();
}

/// The line of group headings, each centred over its columns in dashes.
std::string group_line(const Table& table, const std::vector<std::size_t>& widths) {
  std::string line;
  for (std::size_t c = 0; c < widths.size();) {
    const auto& group = table.columns[c].group;
    std::size_t width = widths[c];
    std::size_t end = c + 1;
    while (!group.empty() && end < widths.size() && table.columns[end].group == group) width += 2 + widths[end++];
    if (!line.empty() || c != 0) line += "  ";
    if (group.empty() || width < group.size() + 4) {
      line += pad(group, width, Align::left);
    } else {
      const std::size_t left = (width - group.size() - 2) / 2;
      line += std::string(left, '-') + ' ' + group + ' ' + std::string(width - group.size() - 2 - left, '-');
    }
    c = end;
  }
  return line;
}

}  // namespace

void mark_best(Table& table, std::size_t column, Better better) {
  std::size_t numbers = 0;
  const std::string* best = nullptr;
  double best_value = 0;
  for (const auto& row : table.rows) {
    char* end = nullptr;
    const double value = std::strtod(row.at(column).c_str(), &end);
    if (end == row[column].c_str() || !std::isfinite(value)) continue;
    ++numbers;
    if (best == nullptr || (better == Better::lower ? value < best_value : value > best_value)) {
      best = &row[column];
      best_value = value;
    }
  }
  if (numbers < 2) return;
  for (std::size_t r = 0; r < table.rows.size(); ++r) {
    if (table.rows[r][column] == *best) table.marked.push_back({r, column});
  }
}

std::string to_text(const Table& table) {
  std::vector<std::size_t> widths(table.columns.size());
  for (std::size_t c = 0; c < widths.size(); ++c) {
    widths[c] = width_of(table.columns[c].title);
    for (const auto& row : table.rows) widths[c] = std::max(widths[c], width_of(row.at(c)));
  }
  std::string out;
  if (!table.title.empty()) out += table.title + '\n';
  if (std::any_of(table.columns.begin(), table.columns.end(), [](const Column& c) { return !c.group.empty(); })) {
    append_line(out, group_line(table, widths));
  }
  std::string head;
  std::string rule;
  for (std::size_t c = 0; c < widths.size(); ++c) {
    if (c != 0) {
      head += "  ";
      rule += "  ";
    }
    head += pad(table.columns[c].title, widths[c], table.columns[c].align);
    rule += std::string(widths[c], '-');
  }
  append_line(out, head);
  append_line(out, rule);
  for (std::size_t r = 0; r < table.rows.size(); ++r) {
    std::string line;
    for (std::size_t c = 0; c < widths.size(); ++c) {
      line += pad(table.rows[r][c], widths[c], table.columns[c].align);
      line += is_marked(table, r, c) ? "* " : "  ";  // the star stands between columns and widens none
    }
    append_line(out, line);
  }
  for (const auto& note : table.notes) out += note + '\n';
  return out;
}

}  // namespace sage2
