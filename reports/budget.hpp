#pragma once

#include <cstddef>
#include <limits>
#include <optional>
#include <vector>

/// The multiple-choice knapsack behind a budgeted map: one option for every item (cell, layer or timestep), so that
/// the summed error is least under a cost, or the summed cost under an error. Solved exactly.
///
/// How. The linear relaxation (lower convex hull of every item's options, steps in order of error saved per cost) gives
/// a multiplier, a lower bound and a first solution that differ by less than one step. By the multiplier every other
/// option has a reduced cost: what choosing it adds to the lower bound. Options that would lift the bound to the best
/// solution found cannot be in a better one and are dropped; nearly all items are decided that way. The few that stay
/// open go through dynamic programming over undominated (cost, error) pairs, which drops a pair as soon as its own
/// bound (multiplier, and the cheapest way back to the budget among the items to come) shows that it cannot win.
/// When no pair is left the solution is proved optimal. Where pairs outgrow the limit on states (costs and errors in
/// strict proportion make it a subset-sum problem), only the most promising are followed, and the lowest bound among
/// those given up says how far from the optimum the solution can be at most: the gap.
///
/// Rounding. Costs and errors become whole numbers of ticks, 2^52 of them over the largest possible sum, so all sums
/// are exact; "optimal" means up to these ticks. A limit is kept when it is exceeded by less than 1e-9 of itself, so
/// that ten cells of 0.1 ms fit into 1 ms.
namespace sage2 {

struct BudgetOption {
  double cost = 0;
  double error = 0;
};

/// The options of every item; items may have different numbers of them, but at least one.
using BudgetItems = std::vector<std::vector<BudgetOption>>;

struct BudgetSolution {
  std::vector<std::size_t> chosen;  ///< per item, index into its options
  double cost = 0;                  ///< sum over items
  double error = 0;
  double bound = 0;       ///< no solution has less of what is minimised
  double gap = 0;         ///< objective - bound; 0 where optimality is proved
  double multiplier = 0;  ///< what one unit of the limit is worth at the margin, in units of the objective
  bool proved = false;
  std::size_t open_items = 0;  ///< items that the linear bound left undecided
  std::size_t states = 0;      ///< pairs examined by the dynamic programme
};

/// Far more than practical problems need; 12 bytes each.
inline constexpr std::size_t kMaxBudgetStates = 8'000'000;

/// Least summed error with summed cost <= `max_cost`; nothing where even the cheapest options cost more.
[[nodiscard]] std::optional<BudgetSolution> least_error(const BudgetItems& items, double max_cost,
                                                        std::size_t max_states = kMaxBudgetStates);

/// Least summed cost with summed error <= `max_error`; nothing where even the best options err more.
[[nodiscard]] std::optional<BudgetSolution> least_cost(const BudgetItems& items, double max_error,
                                                       std::size_t max_states = kMaxBudgetStates);

}  // namespace sage2
