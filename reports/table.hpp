#pragma once

#include <cstddef>
#include <string>
#include <vector>

/// A table as data; printers only format.
namespace sage2 {

enum class Align { left, right };

struct Column {
  std::string title;
  Align align = Align::left;
  std::string group = {};  ///< neighbours with the same group share a heading above their titles
};

/// Place of a value in a table.
struct TablePlace {
  std::size_t row = 0, column = 0;
  bool operator==(const TablePlace&) const = default;
};

struct Table {
  std::string title;  ///< printed above, empty for none
  std::vector<Column> columns;
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> notes;       ///< lines below the table
  std::vector<TablePlace> marked = {};  ///< the best values: "*" in text, bold elsewhere
};

enum class Better { lower, higher };

/// Marks the best number of a column, and those that are printed alike. Does nothing for fewer than two numbers; cells
/// that are no finite number never win.
void mark_best(Table& table, std::size_t column, Better better);

/// Plain text for a terminal: columns padded to their widest cell (by code points), a rule under the head.
[[nodiscard]] std::string to_text(const Table& table);

/// GitHub-flavoured Markdown: title as a heading of `level`, notes as paragraphs.
[[nodiscard]] std::string to_markdown(const Table& table, int level = 3);

/// A booktabs `tabular` to be \input into a table environment; title and notes are comments at the top, since a paper
/// writes its own caption. Needs \usepackage{booktabs} only.
[[nodiscard]] std::string to_latex(const Table& table);

/// RFC 4180 with a head line ("group title"); title, notes and marks are left out.
[[nodiscard]] std::string to_csv(const Table& table);

/// One CSV field, in quotes where it must be.
[[nodiscard]] std::string csv_quoted(const std::string& text);

/// Text with the characters that mean something to LaTeX escaped.
[[nodiscard]] std::string latex_escaped(const std::string& text);

}  // namespace sage2
