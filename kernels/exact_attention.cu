#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>

#include "kernels/cuda_check.hpp"
#include "kernels/exact_attention.hpp"
#include "kernels/exact_attention_kernel.cuh"

namespace sage2::cuda {
namespace {

/// Whether there are only whole runs of four channels, at addresses that one load can take.
bool aligned(const TensorView& t) {
  const std::uintptr_t bytes = t.dtype == DType::float32 ? 16 : 8;
  return reinterpret_cast<std::uintptr_t>(t.data) % bytes == 0 && t.stride_batch % 4 == 0 && t.stride_head % 4 == 0 &&
         t.stride_token % 4 == 0 && t.channels % 4 == 0;
}

TileSource source(const TensorView& t) {
  return {t, t.stride_token * element_bytes(t.dtype), static_cast<std::int32_t>(t.tokens),
          static_cast<std::int32_t>(t.channels), aligned(t)};
}

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

template <class T>
void launch(ExactParams& p, cudaStream_t stream) {
  constexpr auto kShared = static_cast<int>(sizeof(typename T::Shared));
  p.row_blocks = (p.row_count + T::kRows - 1) / T::kRows;
  const std::int64_t blocks = p.row_blocks * p.heads;
  require(blocks <= std::numeric_limits<std::int32_t>::max(), "exact_attention: too many rows for one launch");
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>((p.v.channels + T::kColumns - 1) / T::kColumns));
  SAGE2_CUDA_CHECK(cudaFuncSetAttribute(exact_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  exact_kernel<T><<<grid, T::kThreads, kShared, stream>>>(p);
  SAGE2_CUDA_CHECK_LAUNCH(exact_kernel);
}

}  // namespace

void exact_attention(const DeviceProblem& problem, const RowSelection& rows, double* o, double* lse,
                     cudaStream_t stream) {
  const TensorView& q = problem.q;
  const TensorView& k = problem.k;
  const TensorView& v = problem.v;
  require(q.channels == k.channels && k.tokens == v.tokens && k.heads == v.heads && q.batch == k.batch &&
              k.batch == v.batch && k.heads > 0 && q.heads % k.heads == 0,
          "exact_attention: shapes of Q, K and V disagree");
  require(q.channels <= 256 && v.channels <= 256, "exact_attention: head dims go up to 256");
  require(std::max(q.tokens, k.tokens) <= std::numeric_limits<std::int32_t>::max() / 2,
          "exact_attention: too many tokens");

  ExactParams p{};
  p.q = source(q);
  p.k = source(k);
  p.v = source(v);
  p.rows = rows.rows;
  p.row_count = rows.rows != nullptr ? rows.count : q.tokens;
  p.heads = problem.q_count();
  p.q_heads = q.heads;
  p.kv_heads = k.heads;
  p.steps = static_cast<std::int32_t>((q.channels + 15) / 16);
  p.is_causal = problem.is_causal;
  p.causal_shift = problem.causal_shift();
  // A factor of zero must not meet the -infinity of a masked score, so Q is multiplied by it instead.
  const float scale = problem.sm_scale;
  p.score_scale = scale < 0 || scale > 0 ? std::abs(static_cast<double>(scale)) * kLog2E : 1.0;
  p.q_factor = scale > 0 ? 1.0F : (scale < 0 ? -1.0F : scale);
  p.o = o;
  p.lse = lse;
  if (p.heads == 0 || p.row_count == 0 || v.channels == 0) return;

  int device = 0;
  int shared = 0;
  SAGE2_CUDA_CHECK(cudaGetDevice(&device));
  SAGE2_CUDA_CHECK(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  const auto fits = [&](std::size_t bytes) { return bytes <= static_cast<std::size_t>(shared); };
  // The choice depends on the head dim and the chip only: a row has the same bits whatever else is asked for.
  using Narrow = Tiling<64, 64, 64, 8>;
  using Usual = Tiling<128, 128, 32, 8>;
  using Wide = Tiling<256, 128, 16, 8>;
  using Small = Tiling<256, 128, 16, 2>;  // for chips with 99 KiB of shared memory a block
  const std::int64_t depth = q.channels;
  if (depth <= Narrow::kDepth && v.channels <= Narrow::kColumns && fits(sizeof(Narrow::Shared))) {
    launch<Narrow>(p, stream);
  } else if (depth <= Usual::kDepth && fits(sizeof(Usual::Shared))) {
    launch<Usual>(p, stream);
  } else if (depth > Usual::kDepth && fits(sizeof(Wide::Shared))) {
    launch<Wide>(p, stream);
  } else {
    launch<Small>(p, stream);
  }
}

}  // namespace sage2::cuda
