#pragma once

#include <algorithm>

#include "kernels/cuda_check.hpp"
#include "kernels/sm90_attention.hpp"
#include "kernels/sm90_consume.cuh"
#include "kernels/sm90_queries.cuh"

namespace sage2::cuda::sm90 {

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
  params.pieces = cut(params, C::kConsumers, C::kSkips, multiprocessors);
  if (params.pieces.count == 0) return;
  params.values.shares = shares(params, C::kRows);
  const int blocks = std::min(params.pieces.count, multiprocessors);
  attention_kernel<C><<<blocks, C::kThreads, kShared, stream>>>(params, params.values.rows);
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
