#pragma once

#include <span>
#include <string>
#include <vector>

#include "reports/cells.hpp"

/// What cells are judged by: the paper's score, error metrics that can be summed, and how stable a ranking is.
namespace sage2 {

/// CosSim * (1 - RelL1), the paper's score of one sample: 1 is perfect, low is bad.
[[nodiscard]] double paper_score(const Observation& o);

/// Errors that a budget can sum over cells: 0 is perfect.
enum class Metric { rel_l1, rmse, cos_distance, score_distance, sq_err, max_abs };

/// "rel_l1", "rmse", "1-cos_sim", "1-score", "sq_err", "max_abs".
[[nodiscard]] const char* to_string(Metric metric);
[[nodiscard]] const std::vector<std::string>& metric_names();
/// "cos_sim" is understood as its distance, "1-cos_sim". Throws UsageError with the list of names.
[[nodiscard]] Metric parse_metric(const std::string& text);
[[nodiscard]] double error_of(const Observation& o, Metric metric);

/// Kendall's tau-b between one ranking and others of the same things, ties counted as ties: 1 for the same order, -1
/// for the reverse, 0 where one of them is all ties. Knight's algorithm: O(n log n) each, the first one sorted only
/// once.
class KendallTau {
 public:
  explicit KendallTau(std::span<const double> reference);
  [[nodiscard]] double with(std::span<const double> other) const;

 private:
  std::vector<std::size_t> order_;  ///< ascending by the reference
  std::vector<std::size_t> ties_;   ///< ends of runs of equal references in `order_`
};

/// Indices in ascending order of value, ties in order of index.
[[nodiscard]] std::vector<std::size_t> ascending(std::span<const double> values);

}  // namespace sage2
