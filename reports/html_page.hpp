#pragma once

#include <cstddef>
#include <string>

#include "nlohmann/json.hpp"
#include "reports/report.hpp"

/// A report as one HTML file that needs neither a network nor any other file.
namespace sage2 {

/// Rows of single heads that a page holds at most; beyond, each cell keeps its worst heads (at least one).
inline constexpr std::size_t kMostHeadRows = 80'000;

/// What the page shows, with errors rounded to four significant digits (CosSim as 1 - CosSim).
[[nodiscard]] nlohmann::json html_data(const Report& report);

[[nodiscard]] std::string html_page(const Report& report);

}  // namespace sage2
