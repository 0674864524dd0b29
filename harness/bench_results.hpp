#pragma once

#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "reports/error_metrics.hpp"
#include "reports/record.hpp"
#include "reports/table.hpp"

/// What `bench` has measured, apart from how.
namespace sage2 {

struct BenchResult {
  std::string variant;                  ///< canonical spelling
  std::string written;                  ///< as tables show it; "" for the canonical spelling
  std::vector<std::string> stands_for;  ///< variants whose cost this is too, where they run on this chip
  std::string part;                     ///< "" for the whole call, else what was timed, for example "kernel alone"
  RecordShape shape;
  std::vector<double> ms;          ///< a sample a call
  double sm_clock_mhz = 0;         ///< mean over samples; 0 where unknown
  double cos_sim = 0, rel_l1 = 0;  ///< against FP64, on sampled rows

  /// How it is called in files and tables: the variant, and the part in brackets.
  [[nodiscard]] std::string name() const;
};

/// Why a kernel must not be timed, "" where it may: its relative L1 error and 1 - CosSim against FP64 exceed those of
/// the accurate kernel of the same variant by more than 5 % (other exponentials put a few P on the other side of a
/// rounding), or the accurate one's relative L1 error is over `most`. NaN is a reason.
[[nodiscard]] std::string why_not_timed(const ErrorMetrics& kernel, const ErrorMetrics& accurate, double most);

/// The p-th quantile (0 .. 1) of samples, linear between neighbours. Throws std::invalid_argument where there are none.
[[nodiscard]] double quantile(std::vector<double> samples, double p);

/// Schema "sage2-bench/1": medians, which `rank --bench` and `report --bench` read, with quantiles beside them.
[[nodiscard]] nlohmann::json bench_json(const std::vector<BenchResult>& results, const nlohmann::json& provenance);

/// TOPS by the papers' convention, medians: one table for each head dim and mask, a column a length.
[[nodiscard]] std::vector<Table> bench_tables(const std::vector<BenchResult>& results);

}  // namespace sage2
