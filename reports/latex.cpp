#include <algorithm>

#include "fmt/format.h"
#include "reports/table.hpp"

/// Tables as LaTeX (booktabs).
namespace sage2 {
namespace {

std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

/// The row of group headings and the short rules under them.
std::string group_rows(const Table& table) {
  std::string heads;
  std::string rules;
  for (std::size_t c = 0; c < table.columns.size();) {
    const auto& group = table.columns[c].group;
    std::size_t end = c + 1;
    while (!group.empty() && end < table.columns.size() && table.columns[end].group == group) ++end;
    if (c != 0) heads += " & ";
    if (!group.empty()) {
      heads += fmt::format("\\multicolumn{{{}}}{{c}}{{{}}}", end - c, latex_escaped(group));
      rules += fmt::format("\\cmidrule(lr){{{}-{}}}", c + 1, end);
    }
    c = end;
  }
  return rules.empty() ? "" : heads + " \\\\\n" + rules + '\n';
}

}  // namespace

std::string latex_escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
      case '%':
      case '$':
      case '#':
      case '_':
      case '{':
      case '}':
        out += '\\';
        out += c;
        break;
      case '~':
        out += "\\textasciitilde{}";
        break;
      case '^':
        out += "\\textasciicircum{}";
        break;
      case '\\':
        out += "\\textbackslash{}";
        break;
      case '<':
        out += "\\textless{}";
        break;
      case '>':
        out += "\\textgreater{}";
        break;
      case '|':
        out += "\\textbar{}";
        break;
      case '\n':
        out += ' ';
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string to_latex(const Table& table) {
  std::string out;
  if (!table.title.empty()) out += "% " + one_line(table.title) + '\n';
  for (const auto& note : table.notes) out += "% " + one_line(note) + '\n';
  out += "% \\usepackage{booktabs}\n\\begin{tabular}{@{}";
  for (const auto& c : table.columns) out += c.align == Align::left ? 'l' : 'r';
  out += "@{}}\n\\toprule\n" + group_rows(table);
  for (std::size_t c = 0; c < table.columns.size(); ++c) {
    if (c != 0) out += " & ";
    out += latex_escaped(table.columns[c].title);
  }
  out += " \\\\\n\\midrule\n";
  for (std::size_t r = 0; r < table.rows.size(); ++r) {
    for (std::size_t c = 0; c < table.columns.size(); ++c) {
      const bool bold = std::find(table.marked.begin(), table.marked.end(), TablePlace{r, c}) != table.marked.end();
      const auto text = latex_escaped(table.rows[r].at(c));
      if (c != 0) out += " & ";
      out += bold ? fmt::format("\\textbf{{{}}}", text) : text;
    }
    out += " \\\\\n";
  }
  return out + "\\bottomrule\n\\end{tabular}\n";
}

}  // namespace sage2
