#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>

#include "nlohmann/json.hpp"
#include "reports/budget.hpp"
#include "tests/reports/python.hpp"

/// The knapsack against an independent solver, HiGHS in SciPy, on problems too large for brute force.
namespace sage2 {
namespace {

constexpr const char* kSolve = R"(
import json, sys
import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

results = []
for problem in json.load(open(sys.argv[1])):
    items = problem["items"]
    cost = np.array([o[0] for item in items for o in item])
    error = np.array([o[1] for item in items for o in item])
    rows = np.concatenate([[g] * len(item) for g, item in enumerate(items)])
    one = csr_matrix((np.ones(len(rows)), (rows, np.arange(len(rows)))))
    value, weight = (error, cost) if problem["least_error"] else (cost, error)
    solved = milp(value, constraints=[LinearConstraint(one, 1, 1), LinearConstraint(weight, ub=problem["limit"])],
                  integrality=np.ones(len(cost)), bounds=Bounds(0, 1), options={"mip_rel_gap": 0})
    results.append(solved.fun if solved.success else None)
print(json.dumps(results))
)";

BudgetItems cells_with(std::mt19937_64& rng, std::size_t count, std::size_t options) {
  std::lognormal_distribution<double> error(-3, 1);
  std::lognormal_distribution<double> time(0, 0.3);
  std::uniform_real_distribution<double> uniform(0, 1);
  BudgetItems items(count);
  for (auto& item : items) {
    double e = error(rng);
    double ms = time(rng);
    for (std::size_t o = 0; o < options; ++o) {
      item.push_back({ms, e});
      e *= 0.1 + 0.8 * uniform(rng);
      ms *= 1.1 + 0.4 * uniform(rng);
    }
  }
  return items;
}

TEST(BudgetAgainstScipy, FindsTheSameOptimum) {
  const auto python = test::python_with("scipy.optimize, scipy.sparse; scipy.optimize.milp");
  if (python.empty()) GTEST_SKIP() << "no Python with scipy.optimize.milp";
  std::mt19937_64 rng(11);
  nlohmann::json problems = nlohmann::json::array();
  std::vector<double> ours;
  for (int round = 0; round < 12; ++round) {
    const auto items = cells_with(rng, 60 + 20 * static_cast<std::size_t>(round), 2 + round % 3);
    double cost[2] = {0, 0};
    double error[2] = {0, 0};
    nlohmann::json listed = nlohmann::json::array();
    for (const auto& item : items) {
      cost[0] += item.front().cost;
      cost[1] += item.back().cost;
      error[0] += item.back().error;
      error[1] += item.front().error;
      nlohmann::json options = nlohmann::json::array();
      for (const auto& o : item) options.push_back({o.cost, o.error});
      listed.push_back(std::move(options));
    }
    const bool by_error = round % 2 == 0;
    const double share = 0.1 + 0.05 * round;
    const double limit = by_error ? cost[0] + share * (cost[1] - cost[0]) : error[0] + share * (error[1] - error[0]);
    const auto solution = by_error ? least_error(items, limit) : least_cost(items, limit);
    ASSERT_TRUE(solution);
    EXPECT_TRUE(solution->proved);
    ours.push_back(by_error ? solution->error : solution->cost);
    problems.push_back({{"items", listed}, {"limit", limit}, {"least_error", by_error}});
  }
  const auto folder = std::filesystem::path(testing::TempDir());
  std::ofstream(folder / "sage2_milp.py") << kSolve;
  std::ofstream(folder / "sage2_milp.json") << problems.dump();
  const auto outcome = test::run({python, (folder / "sage2_milp.py").string(), (folder / "sage2_milp.json").string()});
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  const auto theirs = nlohmann::json::parse(outcome.output);
  ASSERT_EQ(theirs.size(), ours.size());
  for (std::size_t i = 0; i < ours.size(); ++i) {
    ASSERT_FALSE(theirs[i].is_null());
    // HiGHS keeps constraints and integers to 1e-6 only, so its optimum may be lower by that much of the whole; ours
    // must never be higher than that, nor lower, since both claim the optimum.
    EXPECT_NEAR(theirs[i].get<double>(), ours[i], 1e-6 * std::max(1.0, ours[i])) << "problem " << i;
  }
}

}  // namespace
}  // namespace sage2
