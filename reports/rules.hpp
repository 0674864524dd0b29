#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "reports/cells.hpp"

/// Rules that put cells (or whole layers, or whole timesteps) into the fallback by rank or threshold.
namespace sage2 {

/// What is decided as one: a cell, a layer with all its timesteps, a timestep with all its layers.
enum class Pooling { cell, layer, timestep };

/// "cell", "layer", "timestep".
[[nodiscard]] const char* to_string(Pooling pooling);

/// Cells that are decided as one. Groups are numbered in ascending order of what they stand for.
struct Groups {
  std::vector<std::size_t> of_cell;
  std::size_t count = 0;
  std::vector<std::size_t> sizes;
};

[[nodiscard]] Groups group_cells(const CellTable& table, Pooling pooling);

/// Mean of one value a cell over the cells of each group: each cell counts the same.
[[nodiscard]] std::vector<double> group_means(const Groups& groups, std::span<const double> of_cells);

/// How many of `count` the fraction asks for: the nearest whole number, halves up. Throws UsageError outside [0, 1].
[[nodiscard]] std::size_t fraction_count(double fraction, std::size_t count);

/// The paper's rule: true for the `count` lowest scores. Ties are broken by the lower index (layer, then timestep).
[[nodiscard]] std::vector<bool> lowest(std::span<const double> scores, std::size_t count);

/// True where a score is not at least `minimum`.
[[nodiscard]] std::vector<bool> below(std::span<const double> scores, double minimum);

/// SageAttention1's rule: the cheaper kernel where the cosine stays above `threshold`; true where it does not.
[[nodiscard]] std::vector<bool> not_above(std::span<const double> cosines, double threshold);

/// True for the cells of the first `n` and the last `n` timesteps that were captured.
[[nodiscard]] std::vector<bool> first_and_last_steps(const CellTable& table, std::size_t n);

}  // namespace sage2
