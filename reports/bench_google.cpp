#include <cmath>
#include <limits>
#include <map>
#include <tuple>
#include <utility>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "reports/bench.hpp"

namespace sage2 {
namespace {

using nlohmann::json;

/// Numbers, because Google Benchmark's counters are floating-point, masks included.
RecordShape shape_of(const json& j) {
  const auto number = [&](const char* key) { return static_cast<std::int64_t>(j.at(key).get<double>()); };
  RecordShape s{number("batch"),
                number("q_heads"),
                number("kv_heads"),
                number("q_len"),
                number("kv_len"),
                number("head_dim"),
                false,
                0};
  const auto& causal = j.at("is_causal");
  s.is_causal = causal.is_boolean() ? causal.get<bool>() : causal.get<double>() != 0;
  return s;
}

double milliseconds_per(const std::string& unit, const std::string& file) {
  if (unit == "ns") return 1e-6;
  if (unit == "us") return 1e-3;
  if (unit == "ms") return 1.0;
  if (unit == "s") return 1e3;
  throw DataError(fmt::format("{}: time unit \"{}\" is none of ns, us, ms, s", file, unit));
}

using Sizes = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, bool>;

Sizes sizes_of(const RecordShape& s) {
  return {s.batch, s.q_heads, s.kv_heads, s.q_len, s.kv_len, s.head_dim, s.is_causal};
}

/// The median where the repetitions were summed up, else their mean.
struct Times {
  double sum = 0, count = 0, median = std::numeric_limits<double>::quiet_NaN();
};

}  // namespace

std::vector<BenchEntry> google_bench_entries(const json& j, const std::string& file) {
  std::map<std::pair<std::string, Sizes>, std::pair<BenchEntry, Times>> found;
  for (const auto& b : j.at("benchmarks")) {
    if (!b.contains("label") || !b.contains("q_len") || b.value("error_occurred", false)) continue;
    const BenchEntry entry{b.at("label").get<std::string>(), shape_of(b), 0, 0};
    const double ms = b.at("real_time").get<double>() * milliseconds_per(b.at("time_unit").get<std::string>(), file);
    auto& times = found.try_emplace({entry.variant, sizes_of(entry.shape)}, entry, Times{}).first->second.second;
    if (b.value("run_type", "iteration") == "iteration") {
      times.sum += ms;
      times.count += 1;
    } else if (b.value("aggregate_name", "") == "median") {
      times.median = ms;
    }
  }
  std::vector<BenchEntry> entries;
  for (auto& [key, value] : found) {
    auto& [entry, times] = value;
    entry.ms = std::isnan(times.median) ? times.sum / times.count : times.median;
    if (!(entry.ms > 0) || !std::isfinite(entry.ms)) {
      throw DataError(
          fmt::format("{}: the benchmark of {} takes {} ms, expected more than 0", file, entry.variant, entry.ms));
    }
    entry.tops = attention_ops(entry.shape) / entry.ms * 1e-9;
    entries.push_back(entry);
  }
  return entries;
}

}  // namespace sage2
