#include "kernels/emulate.hpp"

#include <algorithm>
#include <limits>
#include <numbers>
#include <optional>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "kernels/emulate_layout.hpp"
#include "kernels/emulate_loop.hpp"
#include "reference/emulate.hpp"
#include "reference/formats.hpp"
#include "reference/summation.hpp"

namespace sage2::cuda {
namespace {

/// The CPU's conventions for the exponent of a zero operand and for the least E (panel_accumulate.cpp): its byte-sized
/// exponents differ from its FP64 path in both.
constexpr int kNarrowZero = -64;
constexpr int kNarrowLowest = -100;
constexpr int kWideZero = -1000;
constexpr int kHalfLowest = -300;
constexpr int kHalfLeast = -14;

ProductPlan product_plan(const ProductRule& rule, Format a, Format b) {
  ProductPlan plan{};
  plan.model = rule.model;
  switch (rule.how) {
    case Summation::integer:
      plan.how = Product::integer;
      break;
    case Summation::fp64:
      plan.how = Product::fp64;
      break;
    case Summation::narrow:
      plan.how = rule.model.fraction == 13 && rule.model.out_fraction == 13 ? Product::light : Product::heavy;
      plan.a = {kNarrowZero, least_exponent(a), 32};
      plan.b = {kNarrowZero, least_exponent(b), 32};
      plan.lowest = kNarrowLowest;
      plan.least_c = rule.model.half ? kHalfLeast : -127;
      plan.unsigned_zero = true;
      break;
    case Summation::wide:
      plan.how = Product::heavy;
      plan.any_range = true;
      plan.a = plan.b = {kWideZero, -126, 200};
      plan.lowest = rule.model.half ? kHalfLowest : kLeastSumExponent;
      plan.least_c = rule.model.half ? kHalfLeast : -126;
      break;
  }
  return plan;
}

/// Beyond this a code of P counts as saturated. The maximum is subtracted with a rounding, so P may exceed its range by
/// a few units in the last place.
float saturation_of_p(Format format) {
  constexpr float kSlack = 1 + 0x1p-20F;
  switch (format) {
    case Format::e4m3:
      return kE4m3Max * kSlack;
    case Format::e5m2:
      return kE5m2Max * kSlack;
    case Format::fp16:
      return kFp16Max;
    case Format::int8:
      return kSlack;
    default:
      return std::numeric_limits<float>::max();
  }
}

LoopParams loop_params(const DeviceProblem& problem, const Variant& variant, const DeviceOperands& in,
                       const RowSelection& rows, float* o, LoopCounts* counts) {
  LoopParams p{};
  p.q_codes = in.q.codes.data();
  p.q_scale = in.q.scale.data();
  p.k_codes = in.k.codes.data();
  p.k_scale = in.k.scale.data();
  p.delta = in.delta_s.data();
  p.v_mean = in.v_mean.data();
  p.rows = rows.rows;
  p.o = o;
  p.counts = counts;
  p.q_len = problem.q.tokens;
  p.k_len = problem.k.tokens;
  p.k_tokens = in.k.tokens;
  const auto block = static_cast<std::int64_t>(kSmoothQBlock);
  p.delta_blocks = (problem.q.tokens + block - 1) / block;
  p.row_count = rows.rows != nullptr ? rows.count : problem.q.tokens;
  p.ratio = problem.q_count() / problem.kv_count();
  p.causal_shift = problem.causal_shift();
  p.depth = static_cast<std::int32_t>(in.q.depth);
  p.head_dim = static_cast<std::int32_t>(problem.v.channels);
  p.k_tile = variant.geometry.k_tile;
  p.is_causal = problem.is_causal;
  p.fresh = fresh_per_tile(variant.pv_accum);
  p.p = variant.p;
  p.o_format = variant.o;
  p.scale_log2 = static_cast<float>(static_cast<double>(problem.sm_scale) * std::numbers::log2e);
  p.p_offset = p_offset(variant);
  p.p_limit = saturation_of_p(variant.p);
  p.p_unit = p.p_back = 1;
  p.qk = product_plan(qk_product(variant), variant.q, variant.k);
  p.parts = static_cast<std::int32_t>(in.v.size());
  for (std::size_t i = 0; i < in.v.size(); ++i) {
    const auto& v = in.v[i];
    auto& part = p.part[i];
    part.product = product_plan(pv_product(variant, v.format, i > 0), variant.p, v.format);
    part.codes = v.codes.data();
    part.scale = v.scale.data();
    part.channels = v.channels.data();
    part.count = static_cast<std::int32_t>(v.count);
    part.scale_rows = static_cast<std::int32_t>(v.scale_rows);
    if (part.product.how != Product::light) continue;
    p.p_unit = kLightUnit;
    p.p_back = 1 / kLightUnit;
  }
  return p;
}

/// Formats to which finite values may round as infinity. What sees one is NaN, as on the CPU (reference/emulate.cpp).
bool overflows(Format format) {
  return format == Format::fp16 || format == Format::bf16;
}

/// The first token whose code is not finite, of each head or of each of its columns.
DeviceBuffer<std::uint32_t> nonfinite(const DeviceBuffer<float>& codes, std::int64_t heads, std::int64_t tokens,
                                      std::int64_t cols, bool per_column, cudaStream_t stream) {
  DeviceBuffer<std::uint32_t> first(static_cast<std::size_t>(per_column ? heads * cols : heads), stream);
  SAGE2_CUDA_CHECK(cudaMemsetAsync(first.data(), 0xFF, first.size() * sizeof(std::uint32_t), stream));
  find_nonfinite(codes.data(), heads, tokens, static_cast<std::int32_t>(cols), per_column, first.data(), stream);
  return first;
}

}  // namespace

void emulate(const DeviceProblem& problem, const Variant& variant, const DeviceOperands& operands,
             const RowSelection& rows, float* o, LoopCounts* counts, cudaStream_t stream) {
  LoopParams p = loop_params(problem, variant, operands, rows, o, counts);
  if (p.row_count == 0) return;
  DeviceBuffer<std::uint32_t> first_bad_key;
  DeviceBuffer<std::uint32_t> first_bad[2];
  p.q_overflows = overflows(variant.q);
  if (overflows(variant.k)) {
    const auto& k = operands.k;
    first_bad_key = nonfinite(k.codes, problem.kv_count(), k.tokens, k.depth, false, stream);
    p.first_bad_key = first_bad_key.data();
  }
  for (std::int32_t i = 0; i < p.parts; ++i) {
    const auto& v = operands.v[static_cast<std::size_t>(i)];
    if (!overflows(v.format)) continue;
    first_bad[i] = nonfinite(v.codes, problem.kv_count(), v.tokens, v.count, true, stream);
    p.part[i].first_bad = first_bad[i].data();
  }
  const auto fit = fit_loop(p, problem.q_count());
  p.layout = fit.layout;
  p.row_blocks = (p.row_count + fit.rows - 1) / fit.rows;
  const auto blocks = static_cast<unsigned>(problem.q_count() * p.row_blocks * p.layout.slices);
  if (fit.rows == 64) {
    launch_loop_64(p, blocks, stream);
  } else {
    launch_loop_32(p, blocks, stream);
  }
}

}  // namespace sage2::cuda
