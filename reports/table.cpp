#include "reports/table.hpp"

#include <algorithm>
#include <cstddef>

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

}  // namespace

std::string to_text(const Table& table) {
  std::vector<std::size_t> widths(table.columns.size());
  for (std::size_t c = 0; c < widths.size(); ++c) {
    widths[c] = width_of(table.columns[c].title);
    for (const auto& row : table.rows) widths[c] = std::max(widths[c], width_of(row.at(c)));
  }
  std::string out;
  if (!table.title.empty()) out += table.title + '\n';
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
  for (const auto& row : table.rows) {
    std::string line;
    for (std::size_t c = 0; c < widths.size(); ++c) {
      if (c != 0) line += "  ";
      line += pad(row[c], widths[c], table.columns[c].align);
    }
    append_line(out, line);
  }
  for (const auto& note : table.notes) out += note + '\n';
  return out;
}

}  // namespace sage2
