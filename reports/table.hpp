#pragma once

#include <string>
#include <vector>

/// A table as data; printers only format.
namespace sage2 {

enum class Align { left, right };

struct Column {
  std::string title;
  Align align = Align::left;
};

struct Table {
  std::string title;  ///< printed above, empty for none
  std::vector<Column> columns;
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> notes;  ///< lines below the table
};

/// Plain text for a terminal: columns padded to their widest cell (by code points), a rule under the head.
[[nodiscard]] std::string to_text(const Table& table);

}  // namespace sage2
