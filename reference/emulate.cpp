#include "reference/emulate.hpp"

#include <atomic>
#include <exception>
#include <numeric>

#include "reference/formats.hpp"
#include "reference/quantize.hpp"
#include "reference/strip.hpp"

namespace sage2 {
namespace {

/// A channel of V whose codes are not finite (FP16 overflow of a BF16 value, say) makes every output that sees it NaN,
/// as 0 x infinity does on the hardware; the integer arithmetic of the accumulators cannot carry it.
void poison_channels(const Operands& operands, const HeadProblem& problem, std::span<const std::uint32_t> rows,
                     Matrix& o) {
  for (const auto& part : operands.v) {
    if (part.format != Format::fp16 && part.format != Format::bf16) continue;
    for (std::size_t c = 0; c < part.channels.size(); ++c) {
      std::size_t first_bad = 0;
      while (first_bad < problem.v.rows && std::isfinite(part.codes(first_bad, c))) ++first_bad;
      for (std::size_t i = 0; i < rows.size(); ++i) {
        if (problem.visible(rows[i]) > first_bad) o(i, part.channels[c]) = std::numeric_limits<float>::quiet_NaN();
      }
    }
  }
}

void round_output(Matrix& o, OutFormat format) {
  if (format == OutFormat::exact) return;
  for (float& x : o.data) x = format == OutFormat::fp16 ? round_fp16(x) : round_bf16(x);
}

}  // namespace

EmulatedOutput emulate(const HeadProblem& problem, const Variant& variant, std::span<const std::uint32_t> rows) {
  std::vector<std::uint32_t> all;
  if (rows.empty()) {
    all.resize(problem.q.rows);
    std::iota(all.begin(), all.end(), 0U);
    rows = all;
  }
  const Operands operands = quantize(problem, variant);
  const AttentionPlan plan(problem, variant, operands);
  EmulatedOutput out;
  out.o = Matrix(rows.size(), problem.v.cols);
  out.saturated = operands.saturated;
  std::uint64_t underflow = 0;
  std::uint64_t total = 0;
  std::uint64_t saturated = 0;
  const auto strips = static_cast<std::int64_t>((rows.size() + kStrip - 1) / kStrip);
  std::exception_ptr failure;
#pragma omp parallel reduction(+ : underflow, total, saturated)
  {
    try {
      Strip strip(plan);
      // The longest rows come last where the mask is causal; small portions keep the cores equally busy.
#pragma omp for schedule(dynamic)
      for (std::int64_t s = 0; s < strips; ++s) {
        const auto first = static_cast<std::size_t>(s) * kStrip;
        const auto count = std::min(kStrip, rows.size() - first);
        strip.run(rows.subspan(first, count), out.o.row(first));
        underflow += strip.counts().underflow;
        total += strip.counts().total;
        saturated += strip.counts().saturated;
      }
    } catch (...) {
#pragma omp critical
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
  poison_channels(operands, problem, rows, out.o);
  round_output(out.o, variant.o);
  out.p_underflow = underflow;
  out.p_total = total;
  out.saturated += saturated;
  return out;
}

}  // namespace sage2
