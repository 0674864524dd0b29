#pragma once

#include <string>

/// Figures printed in the papers, to stand beside one's own. They are another model's: never mixed into an average.
namespace sage2 {

inline constexpr const char* kPublishedSource = "CogVideoX, arXiv:2411.10958";

struct PublishedErrors {
  double cos_sim, rel_l1, rmse;
};

struct PublishedRow {
  const char* suite;
  const char* label;
  PublishedErrors average, worst;
};

/// The published row of a suite, nullptr where the paper has none of that label.
[[nodiscard]] const PublishedRow* published_row(const std::string& suite, const std::string& label);

}  // namespace sage2
