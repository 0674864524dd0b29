#include "harness/evaluate.hpp"

#include <algorithm>
#include <chrono>
#include <span>

#include "fmt/format.h"
#include "harness/cell_bits.hpp"
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

void evaluate_head(const HeadProblem& problem, std::span<const std::uint32_t> rows,
                   const std::vector<NamedVariant>& variants, int batch, int head,
                   std::vector<VariantOutcome>& outcomes) {
  const auto exact = exact_attention(problem, rows);
  for (std::size_t i = 0; i < variants.size(); ++i) {
    const auto start = std::chrono::steady_clock::now();
    const auto out = emulate(problem, variants[i].variant, rows);
    outcomes[i].seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::vector<ErrorSums> sums(rows.size());
    auto stats = compare(exact, out.o, sums);
    outcomes[i].heads.push_back(
        {batch, head, std::move(stats), std::move(sums), out.p_underflow, out.p_total, out.saturated});
  }
}

}  // namespace

std::string record_key(const std::string& content_hash, const NamedVariant& variant, const EvaluationPlan& plan) {
  const auto rows = plan.queries ? fmt::format("{},{}", *plan.queries, plan.seed) : "all";
  return text_hash(fmt::format("{}|{}|heads={}|queries={}|numerics={}", content_hash, variant.canonical,
                               plan.heads.to_string(), rows, kNumericsVersion));
}

std::vector<std::uint32_t> chosen_rows(const CellInfo& cell, const EvaluationPlan& plan, std::size_t batch,
                                       std::size_t head) {
  if (!plan.queries || *plan.queries >= cell.shape.q_len) return {};
  const std::uint64_t stream = batch * cell.shape.q_heads + head;
  return sample_rows(cell.shape.q_len, *plan.queries, plan.seed ^ (stream * 0x9E3779B97F4A7C15ULL));
}

std::vector<Record> evaluate_cell(const CaptureReader& reader, const CellInfo& cell,
                                  const std::vector<NamedVariant>& variants, const EvaluationPlan& plan,
                                  const std::string& content_hash) {
  const auto heads = select_heads(reader, cell, plan.heads);
  std::vector<VariantOutcome> outcomes(variants.size(), VariantOutcome{"emulated", 0, {}});
  HeadProblem problem;
  problem.dtype = cell.dtype;
  problem.is_causal = cell.is_causal;
  problem.causal_align = cell.causal_align;
  problem.sm_scale = cell.sm_scale;
  const auto read = [&](TensorName name, std::size_t batch, std::size_t head, Matrix& matrix) {
    reader.read_head(cell, name, batch, head, matrix);
    require_finite(reader, cell, name, batch, head, first_nonfinite(matrix));
  };
  for (std::size_t b = 0; b < cell.shape.batch; ++b) {
    std::optional<std::size_t> loaded;  // K and V are read once for all query heads that share them
    for (const auto h : heads) {
      const auto kv = cell.shape.kv_head(h);
      if (loaded != kv) {
        read(TensorName::k, b, kv, problem.k);
        read(TensorName::v, b, kv, problem.v);
        loaded = kv;
      }
      read(TensorName::q, b, h, problem.q);
      evaluate_head(problem, chosen_rows(cell, plan, b, h), variants, static_cast<int>(b), static_cast<int>(h),
                    outcomes);
    }
  }
  std::vector<Record> records;
  for (std::size_t i = 0; i < variants.size(); ++i) {
    records.push_back(make_record(reader, cell, variants[i], record_key(content_hash, variants[i], plan), "cpu",
                                  heads.size(), plan.seed, std::move(outcomes[i])));
  }
  return records;
}

}  // namespace sage2
