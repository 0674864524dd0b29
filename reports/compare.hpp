#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "reports/metric.hpp"
#include "reports/report.hpp"
#include "reports/table.hpp"

/// Two runs over the same inputs: where the second is better or worse than the first.
///
/// The statistic. The change of a cell is the mean of the paired differences error(B) - error(A) of its samples, with
/// a confidence interval by Student's t. A cell with one sample takes the differences of its heads instead, which says
/// how consistent the change is, not how it would come out for another sample; a cell with one sample and one head has
/// no spread. The interval is held against a zone of +-tolerance times A's error: all above it is worse, all below it
/// better, all inside it same, anything else uncertain. A variant's verdict does the same with the cells' changes.
/// An error is 1 - CosSim, or the metric itself. NaN is worse than any number.
namespace sage2 {

enum class Verdict { better, same, uncertain, worse };

/// "better", "same", "uncertain", "worse".
[[nodiscard]] const char* to_string(Verdict verdict);

enum class SpreadOver { samples, heads, nothing };

struct CellChange {
  std::string model, label, variant;
  int layer = 0, timestep = 0;
  std::string cell, cell_short;  ///< "layer 2 (blocks.2.attn), timestep 12", "L2 T12"
  double error_a = 0, error_b = 0;
  double change = 0, low = 0, high = 0;  ///< mean difference and its interval
  SpreadOver spread = SpreadOver::nothing;
  std::size_t values = 0;  ///< differences behind the interval
  Verdict verdict = Verdict::uncertain;
};

struct VariantChange {
  std::string model, label, variant;
  double error_a = 0, error_b = 0;  ///< mean over cells
  double change = 0, low = 0, high = 0;
  std::size_t better = 0, same = 0, uncertain = 0, worse = 0;  ///< cells
  Verdict verdict = Verdict::uncertain;
};

struct Comparison {
  const MetricInfo* metric = nullptr;
  double tolerance = 0, confidence = 0;
  std::vector<VariantChange> variants;
  std::vector<CellChange> cells;                          ///< variant by variant, by layer and timestep
  std::size_t only_a = 0, only_b = 0;                     ///< samples that the other run lacks
  std::size_t different_inputs = 0;                       ///< samples whose references differ: not compared
  std::size_t by_samples = 0, by_heads = 0, by_none = 0;  ///< cells by where their spread comes from

  [[nodiscard]] bool any_worse() const;
};

struct CompareSettings {
  const MetricInfo* metric = &metric_info("rel_l1");
  double tolerance = 0.01;  ///< of A's error
  double confidence = 0.95;
};

/// Throws DataError where the runs share no sample under any variant.
[[nodiscard]] Comparison compare_reports(const Report& a, const Report& b, const CompareSettings& settings);

/// One row a variant; at most 80 columns.
[[nodiscard]] Table comparison_table(const Comparison& c);

/// The cells that moved furthest relative to A's error, worse ones first.
[[nodiscard]] Table movers_table(const Comparison& c, std::size_t count);

/// One sentence on all cells, one on the statistic, and what was left out.
[[nodiscard]] std::vector<std::string> comparison_summary(const Comparison& c);

[[nodiscard]] nlohmann::json comparison_json(const Comparison& c);

}  // namespace sage2
