#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "reports/record.hpp"

/// Reads the heads of a record line several times faster than a general JSON parser: they are nine tenths of a line
/// and always the same few numbers.
namespace sage2 {

/// A record line taken apart.
struct SplitLine {
  std::string rest;  ///< the line with an empty array of heads
  std::vector<HeadRecord> heads;
};

/// Nothing where the line is not written as this program writes it (then a general parser must judge it).
[[nodiscard]] std::optional<SplitLine> split_heads(std::string_view line);

}  // namespace sage2
