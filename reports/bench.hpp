#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "reports/record.hpp"

/// Benchmark files, schema "sage2-bench/1" (docs/reports.md): how long one attention call takes.
namespace sage2 {

inline constexpr const char* kBenchSchema = "sage2-bench/1";

struct BenchEntry {
  std::string variant;  ///< canonical spelling, or the name of a peer
  RecordShape shape;
  double ms = 0;
  double tops = 0;  ///< 10^12 operations a second: as in the file, else counted by `attention_ops`
  /// Further variants that cost the same where this was measured: `sage2-4b` runs as `sage2-4b@hopper` there.
  std::vector<std::string> stands_for = {};
};

/// Whether an entry is a measurement of `variant`.
[[nodiscard]] bool measures(const BenchEntry& entry, const std::string& variant);

/// 4 batch q_heads q_len kv_len head_dim, halved when causal: the convention of the papers.
[[nodiscard]] double attention_ops(const RecordShape& shape);

/// Reads schema "sage2-bench/1" or the JSON of Google Benchmark. Throws DataError naming the file and the entry where
/// something is missing, no number or not positive.
[[nodiscard]] std::vector<BenchEntry> read_bench(const std::filesystem::path& file);

/// From the JSON of Google Benchmark: entries whose label is a variant and whose counters are the sizes of its shape
/// (batch, q_heads, kv_heads, q_len, kv_len, head_dim, is_causal); others are left out. The real time counts, the
/// median of the repetitions where there is one, else their mean. `file` is for messages.
[[nodiscard]] std::vector<BenchEntry> google_bench_entries(const nlohmann::json& j, const std::string& file);

/// Milliseconds of `variant` at exactly this shape.
[[nodiscard]] std::optional<double> bench_ms(const std::vector<BenchEntry>& entries, const std::string& variant,
                                             const RecordShape& shape);

}  // namespace sage2
