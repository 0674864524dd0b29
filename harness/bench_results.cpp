#include "harness/bench_results.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>
#include <tuple>

#include "fmt/format.h"
#include "reports/bench.hpp"

namespace sage2 {
namespace {

double tops(const RecordShape& shape, double ms) {
  return attention_ops(shape) / ms * 1e-9;
}

std::string with_part(const std::string& variant, const std::string& part) {
  return part.empty() ? variant : fmt::format("{} ({})", variant, part);
}

std::string shown(const BenchResult& r) {
  return with_part(r.written.empty() ? r.variant : r.written, r.part);
}

}  // namespace

std::string BenchResult::name() const {
  return with_part(variant, part);
}

std::string why_not_timed(const ErrorMetrics& kernel, const ErrorMetrics& accurate, double most) {
  if (!(accurate.rel_l1 <= most)) {
    return fmt::format("relative L1 error {:.4f} of the accurate kernel, over {}", accurate.rel_l1, most);
  }
  if (!(kernel.rel_l1 <= 1.05 * accurate.rel_l1) || !(1 - kernel.cos_sim <= 1.05 * (1 - accurate.cos_sim) + 1e-9)) {
    return fmt::format(
        "relative L1 error {:.5f} and CosSim {:.6f}, but {:.5f} and {:.6f} of the accurate kernel of the same variant",
        kernel.rel_l1, kernel.cos_sim, accurate.rel_l1, accurate.cos_sim);
  }
  return "";
}

double quantile(std::vector<double> samples, double p) {
  if (samples.empty()) throw std::invalid_argument("quantile: no samples");
  std::sort(samples.begin(), samples.end());
  const double at = p * static_cast<double>(samples.size() - 1);
  const auto low = static_cast<std::size_t>(at);
  const std::size_t high = std::min(low + 1, samples.size() - 1);
  return samples[low] + (at - static_cast<double>(low)) * (samples[high] - samples[low]);
}

nlohmann::json bench_json(const std::vector<BenchResult>& results, const nlohmann::json& provenance) {
  auto entries = nlohmann::json::array();
  for (const auto& r : results) {
    const double median = quantile(r.ms, 0.5);
    const auto& s = r.shape;
    nlohmann::json entry{{"variant", r.name()},
                         {"ms", median},
                         {"tops", tops(s, median)},
                         {"shape",
                          {{"batch", s.batch},
                           {"q_heads", s.q_heads},
                           {"kv_heads", s.kv_heads},
                           {"q_len", s.q_len},
                           {"kv_len", s.kv_len},
                           {"head_dim", s.head_dim},
                           {"is_causal", s.is_causal}}},
                         {"samples", r.ms.size()},
                         {"quantiles_ms",
                          {{"0", quantile(r.ms, 0)},
                           {"0.1", quantile(r.ms, 0.1)},
                           {"0.25", quantile(r.ms, 0.25)},
                           {"0.75", quantile(r.ms, 0.75)},
                           {"0.9", quantile(r.ms, 0.9)},
                           {"1", quantile(r.ms, 1)}}},
                         {"cos_sim", r.cos_sim},
                         {"rel_l1", r.rel_l1}};
    if (r.sm_clock_mhz > 0) entry["sm_clock_mhz"] = r.sm_clock_mhz;
    if (!r.stands_for.empty() && r.part.empty()) entry["stands_for"] = r.stands_for;
    entries.push_back(std::move(entry));
  }
  return {{"schema", kBenchSchema}, {"entries", std::move(entries)}, {"provenance", provenance}};
}

std::vector<Table> bench_tables(const std::vector<BenchResult>& results) {
  std::map<std::tuple<std::int64_t, bool>, std::vector<const BenchResult*>> panels;
  for (const auto& r : results) panels[{r.shape.head_dim, r.shape.is_causal}].push_back(&r);
  std::vector<Table> tables;
  for (const auto& [key, panel] : panels) {
    std::set<std::int64_t> lengths;
    std::vector<std::string> names;
    for (const auto* r : panel) {
      lengths.insert(r->shape.kv_len);
      if (std::find(names.begin(), names.end(), shown(*r)) == names.end()) names.push_back(shown(*r));
    }
    Table table;
    table.title = fmt::format("TOPS, head dim {}, {} (median of cold calls)", std::get<0>(key),
                              std::get<1>(key) ? "causal" : "no mask");
    table.columns.push_back({"", Align::left});
    for (const auto n : lengths) table.columns.push_back({fmt::format("{}", n), Align::right, "tokens"});
    for (const auto& name : names) {
      auto& row = table.rows.emplace_back(1, name);
      for (const auto n : lengths) {
        const auto it = std::find_if(panel.begin(), panel.end(),
                                     [&](const auto* r) { return shown(*r) == name && r->shape.kv_len == n; });
        row.push_back(it == panel.end() ? "" : fmt::format("{:.0f}", tops((*it)->shape, quantile((*it)->ms, 0.5))));
      }
    }
    tables.push_back(std::move(table));
  }
  return tables;
}

}  // namespace sage2
