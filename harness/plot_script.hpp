#pragma once

#include <filesystem>
#include <string>
#include <vector>

/// Runs scripts/plot_report.py, which draws the plots of a report.
namespace sage2 {

/// Draws the figures of `numbers` (schema "sage2-plots/1") into `folder` as files of these endings ("svg", "pdf",
/// "png"). Returns an empty string, or one sentence that says why there are no plots: no interpreter with matplotlib
/// (the one that PYTHON names; without PYTHON python3 and /usr/bin/python3 are tried), no script, or a script that
/// failed.
[[nodiscard]] std::string draw_plots(const std::filesystem::path& numbers, const std::filesystem::path& folder,
                                     const std::vector<std::string>& endings);

/// The script: below share/sage2-eval/ of an installed program, in the source tree of a built one. Empty where there is
/// none.
[[nodiscard]] std::filesystem::path find_plot_script();

}  // namespace sage2
