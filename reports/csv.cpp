#include "reports/table.hpp"

/// Tables as comma-separated values (RFC 4180, line feeds).
namespace sage2 {

std::string csv_quoted(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

std::string to_csv(const Table& table) {
  std::string out;
  for (std::size_t c = 0; c < table.columns.size(); ++c) {
    const auto& [title, align, group] = table.columns[c];
    if (c != 0) out += ',';
    std::string name = group;
    if (!group.empty() && !title.empty()) name += ' ';
    out += csv_quoted(name.append(title));
  }
  out += '\n';
  for (const auto& row : table.rows) {
    for (std::size_t c = 0; c < table.columns.size(); ++c) {
      if (c != 0) out += ',';
      out += csv_quoted(row.at(c));
    }
    out += '\n';
  }
  return out;
}

}  // namespace sage2
