#include <algorithm>

#include "fmt/format.h"
#include "reports/table.hpp"

/// Tables as GitHub-flavoured Markdown.
namespace sage2 {
namespace {

/// A bar would end the cell, a line break the row.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

}  // namespace

std::string to_markdown(const Table& table, int level) {
  std::string out;
  if (!table.title.empty()) out += std::string(static_cast<std::size_t>(level), '#') + ' ' + table.title + "\n\n";
  std::string head = "|";
  std::string rule = "|";
  for (const auto& c : table.columns) {
    const auto text = c.group.empty() || c.title.empty() ? c.group + c.title : c.group + ' ' + c.title;
    head += fmt::format(" {} |", escaped(text));
    rule += c.align == Align::left ? " --- |" : " ---: |";
  }
  out += head + '\n' + rule + '\n';
  for (std::size_t r = 0; r < table.rows.size(); ++r) {
    out += '|';
    for (std::size_t c = 0; c < table.columns.size(); ++c) {
      const bool bold = std::find(table.marked.begin(), table.marked.end(), TablePlace{r, c}) != table.marked.end();
      const auto text = escaped(table.rows[r].at(c));
      out += bold ? fmt::format(" **{}** |", text) : fmt::format(" {} |", text);
    }
    out += '\n';
  }
  for (const auto& note : table.notes) out += '\n' + note + '\n';
  return out;
}

}  // namespace sage2
