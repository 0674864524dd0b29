#pragma once

#include <string>
#include <vector>

#include "reports/design.hpp"

/// Mean error against the share of cells that run the fallback, for three orders of moving cells into it.
namespace sage2 {

struct CurvePoint {
  std::size_t moved = 0;  ///< groups in the fallback
  double share = 0;       ///< of the cells
  double paper = 0;       ///< lowest scores first
  double exact = 0;       ///< largest savings first: with equal counts the exact optimum, since errors are summed
  double random = 0;      ///< expectation over all choices of that many groups, in closed form
};

struct Curve {
  std::vector<CurvePoint> points;  ///< from none to all, every group
  bool falls = true;               ///< no curve rises anywhere
  bool smooth = true;              ///< no jump in the paper's curve
  /// What is wrong: where a curve rises (cells in which the fallback is worse), or where it jumps. A jump is a step
  /// that saves more than 5 % of the whole and more than twice what any earlier step saved: a cell the score ranked too
  /// high.
  std::vector<std::string> findings;
};

/// The order comes from `designer`'s table, the errors from `scored` (the same table, or unseen samples).
[[nodiscard]] Curve error_curve(const Designer& designer, const CellTable& scored);

}  // namespace sage2
