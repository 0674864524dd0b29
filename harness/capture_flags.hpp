#pragma once

#include <string>

#include "CLI/CLI.hpp"
#include "datasets/capture.hpp"

namespace sage2 {

/// Flags that say how a foreign capture is laid out; shared by every subcommand that reads captures.
struct ReaderFlags {
  std::string path;
  std::string layout;
  std::string mask;
  double sm_scale = 0;

  void add_to(CLI::App& sub);
  [[nodiscard]] ReaderOptions options() const;
};

}  // namespace sage2
