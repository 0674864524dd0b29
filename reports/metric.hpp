#pragma once

#include <array>
#include <string>

#include "reports/error_metrics.hpp"

/// The metrics that can be chosen by name for plots, pages and comparisons.
namespace sage2 {

struct MetricInfo {
  const char* name;  ///< as in records and on the command line
  const char* label;
  bool higher_is_better;
  double ErrorMetrics::*value;
};

inline constexpr std::array<MetricInfo, 8> kMetrics{{
    {"cos_sim", "CosSim", true, &ErrorMetrics::cos_sim},
    {"rel_l1", "relative L1", false, &ErrorMetrics::rel_l1},
    {"rmse", "RMSE", false, &ErrorMetrics::rmse},
    {"max_abs", "max |O - O'|", false, &ErrorMetrics::max_abs},
    {"p50", "median |O - O'|", false, &ErrorMetrics::p50},
    {"p90", "90% quantile of |O - O'|", false, &ErrorMetrics::p90},
    {"p99", "99% quantile of |O - O'|", false, &ErrorMetrics::p99},
    {"p999", "99.9% quantile of |O - O'|", false, &ErrorMetrics::p999},
}};

/// Throws UsageError listing the names.
[[nodiscard]] const MetricInfo& metric_info(const std::string& name);

/// The metric as an error, 0 for a perfect output and larger for a worse one: 1 - cos_sim, others as they are.
[[nodiscard]] inline double as_error(const MetricInfo& metric, const ErrorMetrics& m) {
  return metric.higher_is_better ? 1 - m.*metric.value : m.*metric.value;
}

}  // namespace sage2
