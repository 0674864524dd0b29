#include "kernels/sm90_attention.hpp"

#include <algorithm>
#include <numbers>
#include <stdexcept>

#include "kernels/sm90_work.hpp"

namespace sage2::cuda::sm90 {

// Defined in sm90_attention_*.cu, one instance a head dim.
template <int kDim>
void launch_fast(const AttentionParams& params, bool e4m3_codes, bool smooth_q, cudaStream_t stream);
template <int kDim>
void launch_accurate(const AttentionParams& params, bool e4m3_codes, bool smooth_q, bool two_level,
                     cudaStream_t stream);
template <int kDim>
void launch_steps64(const AttentionParams& params, bool smooth_q, PvAccum pv_accum, cudaStream_t stream);
extern template void launch_fast<64>(const AttentionParams&, bool, bool, cudaStream_t);
extern template void launch_fast<128>(const AttentionParams&, bool, bool, cudaStream_t);
extern template void launch_fast<256>(const AttentionParams&, bool, bool, cudaStream_t);
extern template void launch_accurate<64>(const AttentionParams&, bool, bool, bool, cudaStream_t);
extern template void launch_accurate<128>(const AttentionParams&, bool, bool, bool, cudaStream_t);
extern template void launch_accurate<256>(const AttentionParams&, bool, bool, bool, cudaStream_t);
extern template void launch_steps64<64>(const AttentionParams&, bool, PvAccum, cudaStream_t);
extern template void launch_steps64<128>(const AttentionParams&, bool, PvAccum, cudaStream_t);

void set_shape(AttentionParams& a, const DeviceProblem& problem) {
  a.batch = static_cast<int>(problem.q.batch);
  a.q_heads = static_cast<int>(problem.q.heads);
  a.kv_heads = static_cast<int>(problem.k.heads);
  a.q_len = static_cast<int>(problem.q.tokens);
  a.kv_len = static_cast<int>(problem.k.tokens);
  a.head_dim = static_cast<int>(problem.q.channels);
  a.q_tiles = (a.q_len + kTileRows - 1) / kTileRows;
  a.k_tiles = (a.kv_len + kTileKeys - 1) / kTileKeys;
  a.q_blocks = (a.q_len + kMeanRows - 1) / kMeanRows;
  a.is_causal = problem.is_causal ? 1 : 0;
  a.causal_shift = static_cast<int>(problem.causal_shift());
  a.scale_log2 = static_cast<float>(static_cast<double>(problem.sm_scale) * std::numbers::log2e);
  a.p_offset = 8.807F;  // log2(448) = 8.80735
  a.group = 32;
  a.o_stride_token = a.head_dim;
  a.o_stride_head = static_cast<std::int64_t>(a.q_len) * a.head_dim;
  a.o_stride_batch = a.o_stride_head * a.q_heads;
  // At most half of L2 for K and V of the heads that are worked on together.
  const double kv_bytes = 2.0 * a.k_tiles * kTileKeys * padded_head_dim(a.head_dim) * a.kv_heads / a.q_heads;
  const int heads = a.batch * a.q_heads;
  a.heads_per_group = even_group(heads, std::clamp(static_cast<int>(25e6 / kv_bytes), 1, heads));
}

bool compiled(const KernelChoice& choice) {
  const bool two_level = choice.pv_accum == PvAccum::fp32_fp32;
  const bool fp32 = two_level || choice.pv_accum == PvAccum::fp32;
  if (choice.keys != kTileKeys) {
    return choice.accurate && !choice.e4m3_codes && (fp32 || choice.pv_accum == PvAccum::fp32_fp16);
  }
  if (!fp32) return false;
  if (!choice.accurate) return two_level && (choice.e4m3_codes || !choice.smooth_q);
  return !choice.e4m3_codes || !choice.smooth_q;
}

void attention(const AttentionParams& params, const KernelChoice& choice, cudaStream_t stream) {
  const bool steps64 = choice.keys != kTileKeys;
  if (!compiled(choice) || (steps64 && (params.head_dim > 128 || params.values.codes != nullptr))) {
    throw std::invalid_argument("sm90::attention: no kernel is compiled for this choice");
  }
  const int dim = padded_head_dim(params.head_dim);
  if (steps64) {
    return dim == 64 ? launch_steps64<64>(params, choice.smooth_q, choice.pv_accum, stream)
                     : launch_steps64<128>(params, choice.smooth_q, choice.pv_accum, stream);
  }
  const auto run = [&]<int kDim>() {
    if (choice.accurate) {
      const bool two_level = choice.pv_accum == PvAccum::fp32_fp32;
      launch_accurate<kDim>(params, choice.e4m3_codes, choice.smooth_q, two_level, stream);
    } else {
      launch_fast<kDim>(params, choice.e4m3_codes, choice.smooth_q, stream);
    }
  };
  switch (dim) {
    case 64:
      return run.operator()<64>();
    case 128:
      return run.operator()<128>();
    default:
      return run.operator()<256>();
  }
}

}  // namespace sage2::cuda::sm90
