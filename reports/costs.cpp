#include "reports/costs.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <tuple>

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {
namespace {

using nlohmann::json;

constexpr const char* kBenchSchema = "sage2-bench/1";

auto sizes(const RecordShape& s) {
  return std::tuple(s.batch, s.q_heads, s.kv_heads, s.q_len, s.kv_len, s.head_dim, s.is_causal);
}

std::string describe(const RecordShape& s) {
  return fmt::format("batch {}, {}:{} heads, {} x {} tokens, head dim {}{}", s.batch, s.q_heads, s.kv_heads, s.q_len,
                     s.kv_len, s.head_dim, s.is_causal ? ", causal" : "");
}

/// Numbers, because Google Benchmark's counters are floating-point, masks included.
RecordShape shape_of(const json& j) {
  const auto number = [&](const char* key) { return static_cast<std::int64_t>(j.at(key).get<double>()); };
  RecordShape s{number("batch"), number("q_heads"), number("kv_heads"), number("q_len"), number("kv_len"),
                number("head_dim"), false, 0};
  const auto& causal = j.at("is_causal");
  s.is_causal = causal.is_boolean() ? causal.get<bool>() : causal.get<double>() != 0;
  return s;
}

std::vector<BenchEntry> own_entries(const json& j) {
  std::vector<BenchEntry> entries;
  for (const auto& e : j.at("entries")) {
    entries.push_back({e.at("variant").get<std::string>(), shape_of(e.at("shape")), e.at("ms").get<double>()});
  }
  return entries;
}

double milliseconds_per(const std::string& unit) {
  if (unit == "ns") return 1e-6;
  if (unit == "us") return 1e-3;
  if (unit == "ms") return 1.0;
  if (unit == "s") return 1e3;
  throw DataError(fmt::format("time unit \"{}\" is none of ns, us, ms, s", unit));
}

/// Entries with a label and a shape; the median where repetitions were summed up, else the mean of the repetitions.
std::vector<BenchEntry> google_entries(const json& j) {
  struct Times {
    double sum = 0, count = 0, median = std::numeric_limits<double>::quiet_NaN();
  };
  std::map<std::pair<std::string, decltype(sizes(RecordShape{}))>, std::pair<BenchEntry, Times>> found;
  for (const auto& b : j.at("benchmarks")) {
    if (!b.contains("label") || !b.contains("q_len") || b.value("error_occurred", false)) continue;
    const BenchEntry entry{b.at("label").get<std::string>(), shape_of(b), 0};
    const double ms = b.at("real_time").get<double>() * milliseconds_per(b.at("time_unit").get<std::string>());
    auto& times = found.try_emplace({entry.variant, sizes(entry.shape)}, entry, Times{}).first->second.second;
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
    entries.push_back(entry);
  }
  return entries;
}

/// The measurement of this very shape, else the nearest of the same head dim and mask.
const BenchEntry* nearest(const std::vector<BenchEntry>& entries, const VariantId& variant, const RecordShape& shape) {
  const BenchEntry* best = nullptr;
  double best_distance = std::numeric_limits<double>::infinity();
  for (const auto& e : entries) {
    if (e.variant != variant.variant && e.variant != variant.name) continue;
    if (sizes(e.shape) == sizes(shape)) return &e;
    if (e.shape.head_dim != shape.head_dim || e.shape.is_causal != shape.is_causal) continue;
    const double distance = std::abs(std::log(attention_flops(e.shape) / attention_flops(shape)));
    if (distance < best_distance) {
      best = &e;
      best_distance = distance;
    }
  }
  return best;
}

Costs per_cell(const CellTable& table, const std::function<double(const RecordShape&, std::size_t)>& cost) {
  Costs costs;
  costs.grid.variants = table.variants.size();
  for (const auto& cell : table.cells) {
    for (std::size_t v = 0; v < table.variants.size(); ++v) {
      double sum = 0;
      for (const auto& shape : cell.shapes) sum += cost(shape, v);
      costs.grid.values.push_back(sum / static_cast<double>(cell.samples()));
    }
  }
  return costs;
}

}  // namespace

double attention_flops(const RecordShape& s) {
  const double flops = 4.0 * static_cast<double>(s.batch) * static_cast<double>(s.q_heads) *
                       static_cast<double>(s.q_len) * static_cast<double>(s.kv_len) * static_cast<double>(s.head_dim);
  return s.is_causal ? flops / 2 : flops;
}

double relative_time(const OperandBits& bits) {
  const auto of = [](int b) { return b <= 4 ? 0.25 : b <= 8 ? 0.5 : 1.0; };
  return 0.5 * of(bits.qk) + 0.5 * of(bits.pv);
}

Costs modelled_costs(const CellTable& table, const std::function<OperandBits(const std::string&)>& bits_of) {
  std::vector<double> relative;
  for (const auto& v : table.variants) relative.push_back(relative_time(bits_of(v.variant)));
  Costs costs = per_cell(
      table, [&](const RecordShape& shape, std::size_t v) { return attention_flops(shape) * 1e-12 * relative[v]; });
  costs.unit = "TFLOP";
  costs.source = "operations model (16-bit 1, 8-bit 1/2, 4-bit 1/4; QK and PV half each)";
  return costs;
}

std::vector<BenchEntry> read_bench(const std::filesystem::path& file) {
  std::ifstream in(file);
  if (!in) throw DataError(fmt::format("{}: cannot be opened", file.string()));
  std::vector<BenchEntry> entries;
  try {
    const auto j = json::parse(in);
    if (j.contains("benchmarks")) {
      entries = google_entries(j);
    } else if (j.value("schema", "") == kBenchSchema) {
      entries = own_entries(j);
    } else {
      throw DataError(fmt::format("expected schema \"{}\" or the JSON of Google Benchmark, found neither", kBenchSchema));
    }
  } catch (const json::exception& e) {
    throw DataError(fmt::format("{}: not a benchmark file: {}", file.string(), e.what()));
  } catch (const DataError& e) {
    throw DataError(fmt::format("{}: {}", file.string(), e.what()));
  }
  for (const auto& e : entries) {
    const auto& s = e.shape;
    const bool sound = std::min({s.batch, s.q_heads, s.kv_heads, s.q_len, s.kv_len, s.head_dim}) > 0;
    if (!(e.ms > 0 && std::isfinite(e.ms)) || !sound) {
      throw DataError(fmt::format("{}: variant {} at {} takes {} ms, expected positive sizes and a positive time",
                                  file.string(), e.variant, describe(s), e.ms));
    }
  }
  if (entries.empty()) throw DataError(fmt::format("{}: holds no measurement with a variant and a shape", file.string()));
  return entries;
}

Costs measured_costs(const CellTable& table, const std::vector<BenchEntry>& entries, const std::string& file) {
  using Key = std::pair<std::size_t, decltype(sizes(RecordShape{}))>;
  std::map<Key, double> known;  // thousands of cells share a few shapes
  std::vector<std::string> notes;
  Costs costs = per_cell(table, [&](const RecordShape& shape, std::size_t v) {
    const auto [it, fresh] = known.try_emplace({v, sizes(shape)}, 0.0);
    if (!fresh) return it->second;
    const BenchEntry* e = nearest(entries, table.variants[v], shape);
    if (e == nullptr) {
      throw DataError(fmt::format("{}: has no measurement of variant {} with head dim {}{}, which {} needs", file,
                                  table.variants[v].name, shape.head_dim, shape.is_causal ? " and a causal mask" : "",
                                  describe(shape)));
    }
    it->second = e->ms * attention_flops(shape) / attention_flops(e->shape);
    if (sizes(e->shape) != sizes(shape)) {
      notes.push_back(fmt::format("{} at {} was not measured: scaled by FLOPs from {}", table.variants[v].name,
                                  describe(shape), describe(e->shape)));
    }
    return it->second;
  });
  costs.unit = "ms";
  costs.source = fmt::format("measured, {}", file);
  costs.notes = std::move(notes);
  return costs;
}

}  // namespace sage2
