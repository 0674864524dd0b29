#include "harness/evaluate.hpp"

#include <algorithm>
#include <chrono>
#include <span>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "reference/emulate.hpp"
#include "reference/exact_attention.hpp"
#include "reference/metrics.hpp"
#include "reference/sampling.hpp"

namespace sage2 {
namespace {

/// Rows whose errors are summed together; fixed, so that sums do not depend on the number of threads.
constexpr std::size_t kChunkRows = 256;

/// `row_sums`: where to keep each row's own sums, or nothing.
ErrorStats compare(const ExactOutput& exact, const Matrix& o, std::span<ErrorSums> row_sums) {
  const auto chunks = static_cast<std::int64_t>((o.rows + kChunkRows - 1) / kChunkRows);
  std::vector<ErrorStats> parts(static_cast<std::size_t>(chunks));
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t i = 0; i < chunks; ++i) {
    const auto first = static_cast<std::size_t>(i) * kChunkRows;
    for (std::size_t r = first; r < std::min(first + kChunkRows, o.rows); ++r) {
      const auto sums = parts[static_cast<std::size_t>(i)].add_row(exact.row(r), {o.row(r), o.cols});
      if (!row_sums.empty()) row_sums[r] = sums;
    }
  }
  ErrorStats all;
  for (const auto& part : parts) all.merge(part);
  return all;
}

void require_finite(const CaptureReader& reader, const CellInfo& cell, TensorName name, const Matrix& m,
                    std::size_t batch, std::size_t head) {
  const auto bad = first_nonfinite(m);
  if (!bad) return;
  throw DataError(
      fmt::format("{}: {}: {} of {} values of batch {}, head {} are not finite, the first at token {}, channel {}",
                  reader.file().string(), cell.paths[static_cast<std::size_t>(name)], bad->count, m.data.size(), batch,
                  head, bad->row, bad->col));
}

/// What is gathered for one variant over the heads of a cell.
struct Gathered {
  ErrorStats stats;
  EventCounts counts;
  std::vector<HeadRecord> heads;
  std::vector<std::vector<ErrorSums>> row_sums;  ///< of each head's sampled rows, for standard errors
  double seconds = 0;
};

void set_errors(ErrorMetrics& m, const std::vector<std::vector<ErrorSums>>& heads, std::size_t population) {
  std::vector<SampledHead> sampled;
  for (const auto& rows : heads) sampled.push_back({rows, population});
  const auto se = standard_errors(sampled);
  if (!se) return;
  m.cos_sim_se = se->cos_sim;
  m.rel_l1_se = se->rel_l1;
  m.rmse_se = se->rmse;
}

void evaluate_head(const HeadProblem& problem, std::span<const std::uint32_t> rows,
                   const std::vector<NamedVariant>& variants, int batch, int head, std::vector<Gathered>& gathered) {
  const auto exact = exact_attention(problem, rows);
  for (std::size_t i = 0; i < variants.size(); ++i) {
    auto& g = gathered[i];
    const auto start = std::chrono::steady_clock::now();
    const auto out = emulate(problem, variants[i].variant, rows);
    g.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::vector<ErrorSums> sums(rows.size());
    const auto stats = compare(exact, out.o, sums);
    HeadRecord record{batch, head, stats.metrics()};
    if (!rows.empty()) {
      set_errors(record.metrics, {sums}, problem.q.rows);
      g.row_sums.push_back(std::move(sums));
    }
    g.heads.push_back(record);
    g.stats.merge(stats);
    add(g.counts, {stats.nan(), stats.inf(), out.p_underflow, out.p_total, out.saturated});
  }
}

/// The rows of one head, or none for all. Every head draws its own.
std::vector<std::uint32_t> chosen_rows(const CellInfo& cell, const EvaluationPlan& plan, std::size_t batch,
                                       std::size_t head) {
  if (!plan.queries || *plan.queries >= cell.shape.q_len) return {};
  const std::uint64_t stream = batch * cell.shape.q_heads + head;
  return sample_rows(cell.shape.q_len, *plan.queries, plan.seed ^ (stream * 0x9E3779B97F4A7C15ULL));
}

Record record_of(const CaptureReader& reader, const CellInfo& cell, const NamedVariant& variant,
                 const EvaluationPlan& plan, std::size_t selected_heads, Gathered&& g, std::string key) {
  Record r;
  r.key = std::move(key);
  r.capture = reader.file().filename().string();
  r.model = reader.model();
  r.layer = cell.id.layer;
  r.layer_name = cell.layer_name;
  r.timestep = cell.id.timestep;
  r.timestep_value = cell.timestep_value;
  r.sample = cell.id.sample;
  r.sample_name = cell.sample_name;
  r.cfg_branch = cell.cfg_branch;
  r.variant = variant.canonical;
  r.name = variant.name;
  r.device = "cpu";
  r.engine = "emulated";
  const auto& s = cell.shape;
  r.shape = {static_cast<std::int64_t>(s.batch),
             static_cast<std::int64_t>(s.q_heads),
             static_cast<std::int64_t>(s.kv_heads),
             static_cast<std::int64_t>(s.q_len),
             static_cast<std::int64_t>(s.kv_len),
             static_cast<std::int64_t>(s.head_dim),
             cell.is_causal,
             static_cast<double>(cell.sm_scale)};
  if (selected_heads != s.q_heads) {
    for (const auto& h : g.heads) {
      if (h.batch == 0) r.heads_selected.push_back(h.head);
    }
  }
  r.metrics = g.stats.metrics();
  if (!g.row_sums.empty()) {
    r.queries = QuerySubset{static_cast<std::int64_t>(g.row_sums.front().size()), plan.seed};
    set_errors(r.metrics, g.row_sums, s.q_len);
  }
  r.sums = g.stats.sums();
  r.counts = g.counts;
  r.heads = std::move(g.heads);
  r.seconds = g.seconds;
  return r;
}

}  // namespace

std::string record_key(const std::string& content_hash, const NamedVariant& variant, const EvaluationPlan& plan) {
  const auto rows = plan.queries ? fmt::format("{},{}", *plan.queries, plan.seed) : "all";
  return text_hash(fmt::format("{}|{}|heads={}|queries={}|numerics={}", content_hash, variant.canonical,
                               plan.heads.to_string(), rows, kNumericsVersion));
}

std::vector<Record> evaluate_cell(const CaptureReader& reader, const CellInfo& cell,
                                  const std::vector<NamedVariant>& variants, const EvaluationPlan& plan,
                                  const std::string& content_hash) {
  const auto heads = select_heads(reader, cell, plan.heads);
  std::vector<Gathered> gathered(variants.size());
  HeadProblem problem;
  problem.dtype = cell.dtype;
  problem.is_causal = cell.is_causal;
  problem.causal_align = cell.causal_align;
  problem.sm_scale = cell.sm_scale;
  for (std::size_t b = 0; b < cell.shape.batch; ++b) {
    std::optional<std::size_t> loaded;  // K and V are read once for all query heads that share them
    for (const auto h : heads) {
      const auto kv = cell.shape.kv_head(h);
      if (loaded != kv) {
        problem.k = reader.read_head(cell, TensorName::k, b, kv);
        problem.v = reader.read_head(cell, TensorName::v, b, kv);
        require_finite(reader, cell, TensorName::k, problem.k, b, kv);
        require_finite(reader, cell, TensorName::v, problem.v, b, kv);
        loaded = kv;
      }
      problem.q = reader.read_head(cell, TensorName::q, b, h);
      require_finite(reader, cell, TensorName::q, problem.q, b, h);
      evaluate_head(problem, chosen_rows(cell, plan, b, h), variants, static_cast<int>(b), static_cast<int>(h),
                    gathered);
    }
  }
  std::vector<Record> records;
  for (std::size_t i = 0; i < variants.size(); ++i) {
    records.push_back(record_of(reader, cell, variants[i], plan, heads.size(), std::move(gathered[i]),
                                record_key(content_hash, variants[i], plan)));
  }
  return records;
}

}  // namespace sage2
