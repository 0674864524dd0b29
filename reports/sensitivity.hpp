#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "reports/record.hpp"
#include "reports/table.hpp"

/// Where a cell's error comes from: the suite "stages" evaluates each stage alone (one quantised, the rest exact) and
/// all but one. All shares are of squared error, which adds where the errors of stages are independent.
namespace sage2 {

inline constexpr std::array<const char*, 5> kStages{"q", "k", "p", "v", "accum"};

/// Sums of squared error over the samples of a cell (or of several cells).
struct StageErrors {
  double all = 0;                                ///< everything quantised
  std::array<double, kStages.size()> only{};     ///< this stage alone
  std::array<double, kStages.size()> without{};  ///< everything but this stage

  /// only / all: what the stage causes by itself.
  [[nodiscard]] double share(std::size_t stage) const { return of_all(only[stage]); }
  /// (all - without) / all: what would be saved if the stage were exact.
  [[nodiscard]] double saved(std::size_t stage) const { return of_all(all - without[stage]); }
  /// 1 - sum of shares: above zero where stages reinforce each other, below where they cancel.
  [[nodiscard]] double interaction() const;
  /// Where there is no error at all, nothing causes it.
  [[nodiscard]] double of_all(double sq_err) const { return all > 0 ? sq_err / all : 0.0; }
};

struct CellStages {
  int layer = 0, timestep = 0;
  StageErrors errors;
};

struct StageSensitivity {
  std::string title;              ///< of the suite
  std::string variant;            ///< what "all" is: the variant that was taken apart
  std::vector<CellStages> cells;  ///< ascending
};

/// From the suite that takes `base` (canonical spelling) apart where the runs hold one, else from the first there is;
/// nothing where there is none. Throws DataError where a cell lacks one of its variants.
[[nodiscard]] std::optional<StageSensitivity> stage_sensitivity(std::span<const Run> runs, const std::string& base);

/// One row a layer, its timesteps pooled.
[[nodiscard]] Table sensitivity_table(const StageSensitivity& stages);

}  // namespace sage2
