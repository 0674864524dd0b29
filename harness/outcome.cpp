#include "harness/outcome.hpp"

#include <iterator>

#include "reference/sampling.hpp"

namespace sage2 {
namespace {

void set_errors(ErrorMetrics& m, const std::vector<SampledHead>& heads) {
  const auto se = standard_errors(heads);
  if (!se) return;
  m.cos_sim_se = se->cos_sim;
  m.rel_l1_se = se->rel_l1;
  m.rmse_se = se->rmse;
}

void describe(Record& r, const CaptureReader& reader, const CellInfo& cell) {
  r.capture = reader.file().filename().string();
  r.model = reader.model();
  r.layer = cell.id.layer;
  r.layer_name = cell.layer_name;
  r.timestep = cell.id.timestep;
  r.timestep_value = cell.timestep_value;
  r.sample = cell.id.sample;
  r.sample_name = cell.sample_name;
  r.cfg_branch = cell.cfg_branch;
  const auto& s = cell.shape;
  r.shape = {static_cast<std::int64_t>(s.batch),
             static_cast<std::int64_t>(s.q_heads),
             static_cast<std::int64_t>(s.kv_heads),
             static_cast<std::int64_t>(s.q_len),
             static_cast<std::int64_t>(s.kv_len),
             static_cast<std::int64_t>(s.head_dim),
             cell.is_causal,
             static_cast<double>(cell.sm_scale)};
}

}  // namespace

void append(HeadOutcome& into, HeadOutcome&& more) {
  into.stats.merge(more.stats);
  into.row_sums.insert(into.row_sums.end(), std::make_move_iterator(more.row_sums.begin()),
                       std::make_move_iterator(more.row_sums.end()));
  into.p_underflow += more.p_underflow;
  into.p_total += more.p_total;
  into.saturated += more.saturated;
}

Record make_record(const CaptureReader& reader, const CellInfo& cell, const NamedVariant& variant, std::string key,
                   const char* device, std::size_t selected_heads, std::uint64_t seed, VariantOutcome&& outcome) {
  Record r;
  r.key = std::move(key);
  describe(r, reader, cell);
  r.variant = variant.canonical;
  r.name = variant.name;
  r.device = device;
  r.engine = std::move(outcome.engine);
  r.seconds = outcome.seconds;
  ErrorStats all;
  std::vector<SampledHead> sampled;
  for (const auto& head : outcome.heads) {
    all.merge(head.stats);
    add(r.counts, {head.stats.nan(), head.stats.inf(), head.p_underflow, head.p_total, head.saturated});
    HeadRecord record{head.batch, head.head, head.stats.metrics()};
    if (!head.row_sums.empty()) {
      sampled.push_back({head.row_sums, cell.shape.q_len});
      set_errors(record.metrics, {sampled.back()});
    }
    r.heads.push_back(record);
    if (selected_heads != cell.shape.q_heads && head.batch == 0) r.heads_selected.push_back(head.head);
  }
  r.metrics = all.metrics();
  r.sums = all.sums();
  if (!sampled.empty()) {
    r.queries = QuerySubset{static_cast<std::int64_t>(sampled.front().rows.size()), seed};
    set_errors(r.metrics, sampled);
  }
  return r;
}

}  // namespace sage2
