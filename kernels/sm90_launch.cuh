#pragma once

#include <algorithm>

#include "kernels/cuda_check.hpp"
#include "kernels/sm90_attention.hpp"
#include "kernels/sm90_consume.cuh"

namespace sage2::cuda::sm90 {

/// Where there are fewer whole pieces than multiprocessors, or few more than a multiple of them, the last ones are cut,
/// to one warpgroup's rows if need be: the last round of work is shorter then, or the only one uses more
/// multiprocessors.
template <class C>
Pieces cut(const AttentionParams& p, int multiprocessors) {
  const auto blocks = [&](int rows) { return p.batch * p.q_heads * ((p.q_len + rows - 1) / rows); };
  const int all = blocks(C::kConsumers * kTileRows);
  const Pieces uncut{.count = all, .whole = all, .rows = C::kConsumers * kTileRows};
  // With a mask the last pieces are short anyway. And a warpgroup that does not skip would work for nothing.
  const int last = all % multiprocessors;
  if (!C::kSkips || last == 0 || (p.is_causal != 0 && all > multiprocessors)) return uncut;
  int cuts = C::kConsumers;
  while (C::kConsumers % cuts != 0 || last * cuts > multiprocessors) --cuts;
  if (cuts == 1) return uncut;
  const int rows = C::kConsumers / cuts * kTileRows;
  if (p.is_causal != 0) return {.count = blocks(rows), .whole = 0, .rows = rows};
  return {.count = all - last + last * cuts, .whole = all - last, .rows = rows};
}

/// Launches one instance: as many blocks as multiprocessors, each of which takes work until none is left.
template <class C>
void launch(AttentionParams params, cudaStream_t stream) {
  constexpr int kShared = static_cast<int>(sizeof(Shared<C>));
  static_assert(kShared <= 227 * 1024);
  int device = 0;
  int multiprocessors = 0;
  SAGE2_CUDA_CHECK(cudaGetDevice(&device));
  SAGE2_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  SAGE2_CUDA_CHECK(cudaFuncSetAttribute(attention_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  params.pieces = cut<C>(params, multiprocessors);
  if (params.pieces.count == 0) return;
  const int blocks = std::min(params.pieces.count, multiprocessors);
  attention_kernel<C><<<blocks, C::kThreads, kShared, stream>>>(params);
  SAGE2_CUDA_CHECK_LAUNCH(attention_kernel);
}

/// The instances of a head dim, each compiled in a file of its own (sm90_attention_*.cu).
template <int kDim>
void launch_fast(const AttentionParams& params, bool e4m3_codes, bool smooth_q, cudaStream_t stream);
template <int kDim>
void launch_accurate(const AttentionParams& params, bool e4m3_codes, bool smooth_q, bool two_level,
                     cudaStream_t stream);
template <int kDim>
void launch_steps64(const AttentionParams& params, bool smooth_q, PvAccum pv_accum, cudaStream_t stream);

}  // namespace sage2::cuda::sm90
