#include "reports/costs.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <tuple>

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {
namespace {

auto sizes(const RecordShape& s) {
  return std::tuple(s.batch, s.q_heads, s.kv_heads, s.q_len, s.kv_len, s.head_dim, s.is_causal);
}

std::string describe(const RecordShape& s) {
  return fmt::format("batch {}, {}:{} heads, {} x {} tokens, head dim {}{}", s.batch, s.q_heads, s.kv_heads, s.q_len,
                     s.kv_len, s.head_dim, s.is_causal ? ", causal" : "");
}

/// The measurement of this very shape, else the nearest of the same head dim and mask.
const BenchEntry* nearest(const std::vector<BenchEntry>& entries, const VariantId& variant, const RecordShape& shape) {
  const BenchEntry* best = nullptr;
  double best_distance = std::numeric_limits<double>::infinity();
  for (const auto& e : entries) {
    if (!measures(e, variant.variant) && !measures(e, variant.name)) continue;
    if (sizes(e.shape) == sizes(shape)) return &e;
    if (e.shape.head_dim != shape.head_dim || e.shape.is_causal != shape.is_causal) continue;
    const double distance = std::abs(std::log(attention_ops(e.shape) / attention_ops(shape)));
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

double relative_time(const OperandBits& bits) {
  const auto of = [](int b) { return b <= 4 ? 0.25 : b <= 8 ? 0.5 : 1.0; };
  return 0.5 * of(bits.qk) + 0.5 * of(bits.pv);
}

Costs modelled_costs(const CellTable& table, const std::function<OperandBits(const std::string&)>& bits_of) {
  std::vector<double> relative;
  for (const auto& v : table.variants) relative.push_back(relative_time(bits_of(v.variant)));
  Costs costs = per_cell(
      table, [&](const RecordShape& shape, std::size_t v) { return attention_ops(shape) * 1e-12 * relative[v]; });
  costs.unit = "TFLOP";
  costs.source = "by the operations model (16 bits 1, 8 bits 1/2, 4 bits 1/4, QK and PV half each)";
  return costs;
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
    it->second = e->ms * attention_ops(shape) / attention_ops(e->shape);
    if (sizes(e->shape) != sizes(shape)) {
      notes.push_back(fmt::format("{} at {} was not measured: scaled by FLOPs from {}", table.variants[v].name,
                                  describe(shape), describe(e->shape)));
    }
    return it->second;
  });
  costs.unit = "ms";
  costs.source = fmt::format("as measured in {}", file);
  costs.notes = std::move(notes);
  return costs;
}

}  // namespace sage2
