#include "reports/rules.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {

const char* to_string(Pooling pooling) {
  switch (pooling) {
    case Pooling::cell:
      return "cell";
    case Pooling::layer:
      return "layer";
    case Pooling::timestep:
      return "timestep";
  }
  throw UsageError("unknown pooling");
}

Groups group_cells(const CellTable& table, Pooling pooling) {
  Groups groups;
  std::map<std::pair<int, int>, std::size_t> index;
  const auto id = [&](const Cell& c) -> std::pair<int, int> {
    if (pooling == Pooling::layer) return {c.layer, 0};
    if (pooling == Pooling::timestep) return {c.timestep, 0};
    return {c.layer, c.timestep};
  };
  for (const auto& cell : table.cells) index.emplace(id(cell), 0);
  for (auto& [key, number] : index) number = groups.count++;
  groups.sizes.assign(groups.count, 0);
  for (const auto& cell : table.cells) {
    groups.of_cell.push_back(index.at(id(cell)));
    ++groups.sizes[groups.of_cell.back()];
  }
  return groups;
}

std::vector<double> group_means(const Groups& groups, std::span<const double> of_cells) {
  std::vector<double> means(groups.count, 0.0);
  for (std::size_t c = 0; c < of_cells.size(); ++c) means[groups.of_cell[c]] += of_cells[c];
  for (std::size_t g = 0; g < groups.count; ++g) means[g] /= static_cast<double>(groups.sizes[g]);
  return means;
}

std::size_t fraction_count(double fraction, std::size_t count) {
  if (!(fraction >= 0 && fraction <= 1)) {
    throw UsageError(fmt::format("the fraction of cells in the fallback is {}, expected 0 to 1", fraction));
  }
  // 0.3 * 15 is 4.499..., which is meant as 4.5: the margin is far above rounding and far below one cell.
  return static_cast<std::size_t>(std::floor(fraction * static_cast<double>(count) + 0.5 + 1e-9));
}

std::vector<bool> lowest(std::span<const double> scores, std::size_t count) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::nth_element(
      order.begin(), order.begin() + static_cast<std::ptrdiff_t>(std::min(count, order.size())), order.end(),
      [&](std::size_t i, std::size_t j) { return scores[i] != scores[j] ? scores[i] < scores[j] : i < j; });
  std::vector<bool> chosen(scores.size(), false);
  for (std::size_t i = 0; i < count; ++i) chosen[order[i]] = true;
  return chosen;
}

std::vector<bool> below(std::span<const double> scores, double minimum) {
  std::vector<bool> chosen(scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) chosen[i] = !(scores[i] >= minimum);
  return chosen;
}

std::vector<bool> not_above(std::span<const double> cosines, double threshold) {
  std::vector<bool> chosen(cosines.size());
  for (std::size_t i = 0; i < cosines.size(); ++i) chosen[i] = !(cosines[i] > threshold);
  return chosen;
}

std::vector<bool> first_and_last_steps(const CellTable& table, std::size_t n) {
  std::set<int> steps;
  for (const auto& cell : table.cells) steps.insert(cell.timestep);
  std::set<int> outer;
  auto from_front = steps.begin();
  auto from_back = steps.rbegin();
  for (std::size_t i = 0; i < n && i < steps.size(); ++i) {
    outer.insert(*from_front++);
    outer.insert(*from_back++);
  }
  std::vector<bool> chosen;
  for (const auto& cell : table.cells) chosen.push_back(outer.contains(cell.timestep));
  return chosen;
}

}  // namespace sage2
