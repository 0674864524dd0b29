#include "reports/bench.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {
namespace {

using nlohmann::json;

BenchEntry entry_of(const json& j) {
  BenchEntry e;
  j.at("variant").get_to(e.variant);
  if (j.contains("stands_for")) j["stands_for"].get_to(e.stands_for);
  const auto& s = j.at("shape");
  s.at("batch").get_to(e.shape.batch);
  s.at("q_heads").get_to(e.shape.q_heads);
  s.at("kv_heads").get_to(e.shape.kv_heads);
  s.at("q_len").get_to(e.shape.q_len);
  s.at("kv_len").get_to(e.shape.kv_len);
  s.at("head_dim").get_to(e.shape.head_dim);
  e.shape.is_causal = s.value("is_causal", false);
  j.at("ms").get_to(e.ms);
  if (!(e.ms > 0) || !std::isfinite(e.ms)) throw DataError(fmt::format("\"ms\" is {}, expected more than 0", e.ms));
  e.tops = j.contains("tops") && !j["tops"].is_null() ? j["tops"].get<double>() : attention_ops(e.shape) / e.ms * 1e-9;
  return e;
}

}  // namespace

bool measures(const BenchEntry& entry, const std::string& variant) {
  return entry.variant == variant ||
         std::find(entry.stands_for.begin(), entry.stands_for.end(), variant) != entry.stands_for.end();
}

double attention_ops(const RecordShape& s) {
  const double ops = 4.0 * static_cast<double>(s.batch) * static_cast<double>(s.q_heads) *
                     static_cast<double>(s.q_len) * static_cast<double>(s.kv_len) * static_cast<double>(s.head_dim);
  return s.is_causal ? ops / 2 : ops;
}

std::vector<BenchEntry> read_bench(const std::filesystem::path& file) {
  std::ifstream in(file);
  if (!in) throw DataError(fmt::format("{}: cannot be opened as a benchmark file", file.string()));
  std::vector<BenchEntry> entries;
  try {
    const auto j = json::parse(in);
    if (j.contains("benchmarks")) return google_bench_entries(j, file.string());
    const auto schema = j.at("schema").get<std::string>();
    if (schema != kBenchSchema) {
      throw DataError(fmt::format("{}: expected schema \"{}\", found \"{}\"", file.string(), kBenchSchema, schema));
    }
    for (const auto& entry : j.at("entries")) {
      try {
        entries.push_back(entry_of(entry));
      } catch (const std::exception& e) {
        throw DataError(fmt::format("{}, entry {}: {}", file.string(), entries.size(), e.what()));
      }
    }
  } catch (const json::exception& e) {
    throw DataError(fmt::format("{}: not a benchmark file: {}", file.string(), e.what()));
  }
  return entries;
}

std::optional<double> bench_ms(const std::vector<BenchEntry>& entries, const std::string& variant,
                               const RecordShape& shape) {
  for (const auto& e : entries) {
    const auto& s = e.shape;
    if (measures(e, variant) && s.batch == shape.batch && s.q_heads == shape.q_heads && s.kv_heads == shape.kv_heads &&
        s.q_len == shape.q_len && s.kv_len == shape.kv_len && s.head_dim == shape.head_dim &&
        s.is_causal == shape.is_causal) {
      return e.ms;
    }
  }
  return std::nullopt;
}

}  // namespace sage2
