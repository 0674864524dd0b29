#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "datasets/capture.hpp"

/// What the numbers of a cell look like, and whether it is sound.
namespace sage2 {

/// Statistics of one tensor over all its heads. Means and spreads are of the finite values.
struct TensorStats {
  double min = 0;
  double max = 0;
  /// Largest |mean| / standard deviation of a channel: what smoothing removes. Channels without spread do not count.
  double bias = 0;
  std::size_t bias_head = 0;
  std::size_t bias_channel = 0;
  std::size_t nan = 0;
  std::size_t inf = 0;
  std::size_t zero_rows = 0;          ///< tokens whose values are all zero
  std::size_t zero_channels = 0;      ///< channels of a head that are zero for all tokens
  std::size_t constant_channels = 0;  ///< channels of a head that are one other value for all tokens

  [[nodiscard]] double max_abs() const { return std::max(-min, max); }
};

/// The model's own output against plain attention in FP64 on a few rows of every head.
struct OutputCheck {
  std::size_t rows = 0;
  double worst_error = 0;  ///< largest ||o - ref|| / ||ref|| of a row; NaN where o is not finite
  std::size_t worst_batch = 0;
  std::size_t worst_head = 0;
  std::size_t worst_row = 0;
  /// True if q, k, v, mask and scale are proved to be laid out as the file says.
  [[nodiscard]] bool proved() const;
};

struct CellReport {
  CellId id;
  std::optional<CellInfo> info;  ///< empty where attributes or shapes are wrong
  std::array<TensorStats, 3> tensors;
  std::optional<OutputCheck> output;  ///< where the file holds the model's output
  std::vector<std::string> problems;  ///< one sentence each; the cell is sound if there is none
  std::vector<std::string> warnings;  ///< sound, but hard on some kernels
};

/// Statistics of one matrix (one head), on all cores. The result does not depend on their number.
[[nodiscard]] TensorStats matrix_stats(const Matrix& values);

/// Compares the rows 0, n/3, 2n/3 and n-1 of one head with plain attention in FP64.
[[nodiscard]] OutputCheck check_output(const HeadProblem& problem, const Matrix& output);

/// Reads a whole cell, one head at a time. Bad data end up in `problems`; nothing is thrown for them.
[[nodiscard]] CellReport inspect_cell(const CaptureReader& reader, const CellId& id);

}  // namespace sage2
