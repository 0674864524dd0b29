#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/load.cuh"
#include "kernels/sm90_prepare.hpp"

/// What the jobs of the preparation share. A block of 256 threads does one job; 16-byte chunks of a row are the unit of
/// loading, kDim / 8 threads a row.
namespace sage2::cuda::sm90 {

inline constexpr int kPrepareThreads = 256;
inline constexpr int kJobRows = 128;         ///< rows of Q, K or V that a quantising job takes
inline constexpr int kStatisticsRows = 512;  ///< rows of a job that gathers means and maxima

struct PrepareParams {
  TensorView q, k, v;
  PrepareOptions options;
  Workspace at;
  std::uint8_t* base;
  int q_count, kv_count, group;  ///< group: query heads that share a key/value head
  int q_len, kv_len, head_dim;
  int q_tiles, k_tiles, q_blocks, chunks;  ///< chunks: statistics jobs of a head
  int lag;                                 ///< heads between the first and the second look at K and V
  float sm_scale;
  int is_causal, causal_shift;
  DType dtype;
  float top;                    ///< largest code of Q and K
  bool wide_q, wide_k, wide_v;  ///< rows are aligned for loads of 16 bytes
};

/// Counters in device memory, zero at the start. [heads] arrays follow the ticket.
struct Progress {
  int* ticket;
  int* next_tile;  ///< of the attention kernel
  int* k_chunks;   ///< statistics jobs that are done
  int* v_chunks;
  int* k_ready;  ///< the mean is there
  int* v_ready;  ///< scales and mean are there
  int* q_done;   ///< blocks of Q (all heads of the group) whose means are there
};
inline constexpr std::size_t kProgressHead = 64;  ///< bytes before the arrays
inline std::size_t progress_bytes(std::int64_t kv_count) {
  return kProgressHead + static_cast<std::size_t>(kv_count) * 5 * sizeof(int);
}
__device__ __forceinline__ Progress progress_of(const PrepareParams& p) {
  auto* const head = reinterpret_cast<int*>(p.base + p.at.progress);
  auto* const arrays = reinterpret_cast<int*>(p.base + p.at.progress + kProgressHead);
  const std::int64_t n = p.kv_count;
  return {head, head + 1, arrays, arrays + n, arrays + 2 * n, arrays + 3 * n, arrays + 4 * n};
}

template <class T>
__device__ __forceinline__ T* part(const PrepareParams& p, std::size_t offset) {
  return reinterpret_cast<T*>(p.base + offset);
}

/// Eight channels of a token.
template <class T>
struct alignas(16) Chunk {
  T x[8];
};

/// The first element of a head; heads are counted over batch and heads.
template <class T>
__device__ __forceinline__ const T* head_of(const TensorView& t, std::int64_t head) {
  const auto heads = static_cast<unsigned>(t.heads);
  const unsigned batch = static_cast<unsigned>(head) / heads;
  const unsigned inside = static_cast<unsigned>(head) - batch * heads;
  return static_cast<const T*>(t.data) + batch * t.stride_batch + inside * t.stride_head;
}

/// Channels first .. first + 7 of a row; zeros beyond head_dim.
template <class T>
__device__ __noinline__ Chunk<T> load_chunk_slowly(const T* row, int first, int head_dim) {
  Chunk<T> out;
#pragma unroll
  for (int i = 0; i < 8; ++i) out.x[i] = first + i < head_dim ? row[first + i] : T(0.0F);
  return out;
}

/// Rows first_row + lane_row + pass kStep (below `end`; zeros beyond) of a head, one chunk each: all loads are on their
/// way before the first is used. `wide`: rows are aligned for loads of 16 bytes.
template <int kPasses, int kStep, class T>
__device__ __forceinline__ void load_rows(Chunk<T> (&raw)[kPasses], const T* head, std::int64_t stride, int row,
                                          int end, int channel, int head_dim, bool wide) {
  const T* at = head + row * stride;
  if (wide) {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      uint4 bits = {0, 0, 0, 0};
      if (row + pass * kStep < end && channel < head_dim) {
        const auto* const from = reinterpret_cast<const uint4*>(at + channel);
        bits = __ldg(from);
      }
      *reinterpret_cast<uint4*>(&raw[pass]) = bits;
      at += kStep * stride;
    }
  } else {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      raw[pass] = row + pass * kStep < end ? load_chunk_slowly(at, channel, head_dim) : Chunk<T>{};
      at += kStep * stride;
    }
  }
}

template <class T>
__device__ __forceinline__ float round_like(float x) {
  if constexpr (std::is_same_v<T, __half>) {
    return __half2float(__float2half_rn(x));
  } else {
    return __bfloat162float(__float2bfloat16_rn(x));
  }
}

/// Publishes what this block has written and counts it; true for the block that completes `total`.
__device__ __forceinline__ bool complete(int* counter, int total) {
  __shared__ int last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(counter, 1) == total - 1 ? 1 : 0;
  __syncthreads();
  if (last != 0) __threadfence();
  return last != 0;
}

/// Waits until a counter has reached `value`. Jobs start in the order of their tickets and wait for earlier ones only.
__device__ __forceinline__ void await(const int* counter, int value) {
  if (threadIdx.x == 0) {
    int seen;
    do {
      asm volatile("ld.acquire.gpu.global.s32 %0, [%1];\n" : "=r"(seen) : "l"(counter) : "memory");
    } while (seen < value);
  }
  __syncthreads();
}

__device__ __forceinline__ void publish(int* flag) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) atomicExch(flag, 1);
}

/// Two numbers as E4M3, the first in the low byte.
__device__ __forceinline__ std::uint16_t e4m3_pair(float a, float b) {
  std::uint16_t out;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;\n" : "=h"(out) : "f"(b), "f"(a));
  return out;
}

}  // namespace sage2::cuda::sm90
