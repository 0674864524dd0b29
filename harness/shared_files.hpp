#pragma once

#include <filesystem>
#include <string>

namespace sage2 {

/// A file that comes with the program: in ../share/sage2-eval beside an installed program, or in the source tree it was
/// built from. Empty where it is in neither.
[[nodiscard]] std::filesystem::path find_shared_file(const std::string& installed, const std::string& in_source);

}  // namespace sage2
