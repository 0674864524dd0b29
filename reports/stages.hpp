#pragma once

#include <optional>
#include <string>
#include <vector>

#include "reports/model_cells.hpp"
#include "reports/record.hpp"

/// Which stage of the quantised attention (Q, K, P, V, accumulator) the error comes from.
namespace sage2 {

/// Shares of one set of cells. Squared errors of independent stages add up; what is left of the whole is interaction:
/// positive where stages amplify each other, negative where they cancel.
struct StageShares {
  std::string name;  ///< "all cells", "layer 2"
  /// Squared error with only this stage quantised over the squared error with all of them, in the stages' order.
  std::vector<double> shares;
  double interaction = 0;  ///< 1 - sum of shares
};

struct StageAnalysis {
  std::vector<std::string> stages;  ///< "q", "k", ...: rows "only q", "only k", ... of the suite
  StageShares whole;
  std::vector<StageShares> layers;  ///< ascending
};

/// From a suite called "stages"; nothing where it is another suite, or where the model lacks records of its row "all"
/// or of every "only" row.
[[nodiscard]] std::optional<StageAnalysis> analyse_stages(const ModelCells& model, const SuiteInfo& suite);

}  // namespace sage2
