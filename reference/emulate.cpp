#include "reference/emulate.hpp"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <numeric>

#include "reference/formats.hpp"
#include "reference/quantize.hpp"
#include "reference/strip.hpp"

namespace sage2 {
namespace {

/// Where codes are not finite: an FP16 code of a BF16 value, say.
struct NonFiniteCodes {
  std::vector<bool> q_rows;                        ///< of Q; empty where there are none
  std::size_t first_key;                           ///< with such a code of K; its length where there is none
  std::vector<std::vector<std::size_t>> channels;  ///< the same of each channel of each part of V; empty: none
};

bool overflows(Format format) {
  return format == Format::fp16 || format == Format::bf16;
}

/// Finds such codes and makes them zero: the integer arithmetic of the accumulators cannot carry them.
NonFiniteCodes take_out(Operands& operands, const Variant& variant) {
  NonFiniteCodes found;
  const auto scan = [](Matrix& m, const auto& report) {
    for (std::size_t i = 0; i < m.rows; ++i) {
      for (std::size_t c = 0; c < m.cols; ++c) {
        if (std::isfinite(m(i, c))) continue;
        m(i, c) = 0;
        report(i, c);
      }
    }
  };
  found.first_key = operands.k.codes.rows;
  if (overflows(variant.q)) {
    found.q_rows.resize(operands.q.codes.rows);
    scan(operands.q.codes, [&](std::size_t i, std::size_t) { found.q_rows[i] = true; });
  }
  if (overflows(variant.k)) {
    scan(operands.k.codes, [&](std::size_t i, std::size_t) { found.first_key = std::min(found.first_key, i); });
  }
  for (auto& part : operands.v) {
    auto& first = found.channels.emplace_back();
    if (!overflows(part.format)) continue;
    first.assign(part.channels.size(), part.codes.rows);
    scan(part.codes, [&](std::size_t i, std::size_t c) { first[c] = std::min(first[c], i); });
  }
  return found;
}

/// What sees such a code is NaN, as 0 x infinity is on the hardware: rows for Q and K, channels for V.
void poison(const NonFiniteCodes& bad, const Operands& operands, const HeadProblem& problem,
            std::span<const std::uint32_t> rows, Matrix& o) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::size_t seen = problem.visible(rows[i]);
    if (seen > 0 && ((!bad.q_rows.empty() && bad.q_rows[rows[i]]) || seen > bad.first_key)) {
      std::fill_n(o.row(i), o.cols, kNan);
    }
    for (std::size_t part = 0; part < bad.channels.size(); ++part) {
      for (std::size_t c = 0; c < bad.channels[part].size(); ++c) {
        if (seen > bad.channels[part][c]) o(i, operands.v[part].channels[c]) = kNan;
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
  Operands operands = quantize(problem, variant);
  const auto bad = take_out(operands, variant);
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
  poison(bad, operands, problem, rows, out.o);
  round_output(out.o, variant.o);
  out.p_underflow = underflow;
  out.p_total = total;
  out.saturated += saturated;
  return out;
}

}  // namespace sage2
