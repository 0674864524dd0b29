#include "kernels/mma_launch.hpp"

#include <numbers>
#include <stdexcept>

#include "kernels/mma_operands.hpp"
#include "reference/emulate.hpp"

namespace sage2::cuda::mma {
namespace {

int code_bits(const Variant& v) {
  return bits_of(v.q) <= 4 && bits_of(v.k) <= 4 ? 4 : 8;
}

}  // namespace

bool supports(const Variant& v, std::int64_t head_dim, Format format) {
  const bool accumulator =
      v.pv_accum == PvAccum::fp32 || v.pv_accum == PvAccum::fp32_fp32 || v.pv_accum == PvAccum::fp32_fp16;
  return is_integer(v.q) && is_integer(v.k) && v.p == format && v.v == format && accumulator &&
         v.geometry == Geometry{kMmaQueryTile, kMmaKeyTile, 32} && v.v_gran != VGran::per_block &&
         v.v_outliers != VOutliers::split && head_dim <= 128;
}

void attend(std::span<const Instance> instances, const DeviceProblem& problem, const Variant& variant,
            const DeviceOperands& operands, float* o, LoopCounts* counts, cudaStream_t stream) {
  if (problem.q_count() * problem.q.tokens == 0) return;
  const std::int64_t channels = problem.v.channels;
  const int bits = code_bits(variant);
  for (const auto& instance : instances) {
    const bool fits = instance.dim >= channels && instance.dim >= operands.q.depth;
    // Depths are padded to multiples of 32, which never passes 64 where the channels do not.
    if (!fits || instance.bits != bits || instance.accum != variant.pv_accum) continue;
    const std::int64_t q_heads = problem.q_count();
    const auto packed =
        pack_mma_operands(operands, q_heads, problem.kv_count(), instance.dim, bits == 4, variant.v, stream);
    Arguments in{};
    in.q = packed.q.data();
    in.k = packed.k.data();
    in.v = packed.v.data();
    in.q_rows = packed.q_rows;
    in.kv_rows = packed.kv_rows;
    in.q_scale = operands.q.scale.data();
    in.k_scale = operands.k.scale.data();
    in.delta_s = operands.delta_s.empty() ? nullptr : operands.delta_s.data();
    in.v_scale = operands.v.front().scale.data();
    in.v_mean = operands.v_mean.empty() ? nullptr : operands.v_mean.data();
    in.o = o;
    in.counts = counts;
    in.q_len = problem.q.tokens;
    in.kv_len = problem.k.tokens;
    in.q_heads_per_kv = problem.q.heads / problem.k.heads;
    in.channels = static_cast<int>(channels);
    in.is_causal = problem.is_causal;
    in.causal_shift = problem.causal_shift();
    in.scale_log2 = static_cast<float>(static_cast<double>(problem.sm_scale) * std::numbers::log2e);
    in.offset = p_offset(variant);
    instance.launch(in, q_heads, stream);
    round_output(o, q_heads * in.q_len * channels, variant.o, stream);
    return;
  }
  throw std::logic_error("no mma.sync kernel for this variant");
}

}  // namespace sage2::cuda::mma
