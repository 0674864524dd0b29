#pragma once

#include <cstddef>
#include <string>

namespace sage2 {

/// The narrowest terminal that output is made for.
inline constexpr std::size_t kTerminalColumns = 80;

/// Breaks a sentence at its spaces so that lines fit; further lines are indented by two. Ends with a line break.
[[nodiscard]] std::string wrapped(const std::string& sentence, std::size_t columns = kTerminalColumns);

}  // namespace sage2
