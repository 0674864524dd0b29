#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda_check.hpp"
#include "kernels/mma.cuh"
#include "kernels/mma_launch.hpp"
#include "kernels/mma_operands.hpp"
#include "kernels/mma_softmax.cuh"

/// Attention through mma.sync for Ampere and Ada, in the order of docs/numerics.md, section 3: 128 query rows a block,
/// key tiles of 64. Eight warps have 16 rows each: the geometry 128x64w32 says which rows share a scale, and here every
/// row has its own. K and V of the next tile are copied while this one is computed.
namespace sage2::cuda::mma {

inline constexpr int kThreads = 256, kWarpRows = 16, kQueryTile = kMmaQueryTile, kKeyTile = kMmaKeyTile;

/// What distinguishes the kernels. kDim: 64 or 128 channels (others are padded with zeros); kQkBits: 4 or 8.
template <int kDim_, int kQkBits_, Format kV_, PvAccum kAccum_>
struct Policy {
  static constexpr int kDim = kDim_, kQkBits = kQkBits_;
  static constexpr Format kV = kV_;  ///< of P too: FP16 or E4M3
  static constexpr PvAccum kAccum = kAccum_;
  static constexpr int kQkRow = kDim * kQkBits / 8;                       ///< bytes of a row of Q and K
  static constexpr int kVRow = kV == Format::fp16 ? 2 * kDim : kKeyTile;  ///< bytes of a stored row of V
  static constexpr int kVBytes = kKeyTile * kDim * (kV == Format::fp16 ? 2 : 1);
};

template <class P>
struct Shared {
  alignas(128) std::uint8_t q[kQueryTile * P::kQkRow];
  alignas(128) std::uint8_t k[kKeyTile * P::kQkRow];
  alignas(128) std::uint8_t v[P::kVBytes];
  // Read while the next tile's arrive.
  alignas(16) float k_scale[2][kKeyTile];
  alignas(16) float delta_s[2][kKeyTile];
};

/// Where byte `at` of a matrix with rows of kRow bytes lies. The 16-byte chunks of every 128 bytes are permuted, so
/// that the eight rows of an ldmatrix meet eight different banks. What is 8 rows further on is simply added, and a
/// multiple of 16 bytes within a row is an exclusive or, where the lane's own offset does not use those bits.
template <int kRow>
__device__ inline std::uint32_t swizzled(std::uint32_t at) {
  constexpr std::uint32_t kLine = kRow > 128 ? kRow : 128;
  constexpr std::uint32_t kKeys = kRow < 128 ? kRow / 16 : 8;
  return at ^ ((at / kLine % kKeys) << 4U);
}
/// The address in shared memory of a lane's row and byte. Computed anew in each tile: the compiler would keep all the
/// addresses that are derived from it in registers.
template <int kRow>
__device__ inline std::uint32_t lane_address(const void* matrix, int row, int byte) {
  std::uint32_t address = ptx::shared_address(matrix) + swizzled<kRow>(row * kRow + byte);
  asm volatile("" : "+r"(address));
  return address;
}

/// Copies a matrix that is contiguous in global memory.
template <int kBytes, int kRow>
__device__ inline void stage(const void* to, const std::uint8_t* from) {
  constexpr int kStep = 16 * kThreads;  // whole groups of eight rows, so that the permutation repeats
  static_assert(kStep % (8 * 256) == 0);
  const std::uint32_t mine = threadIdx.x * 16;
  const std::uint32_t address = ptx::shared_address(to) + swizzled<kRow>(mine);
#pragma unroll
  for (int first = 0; first < kBytes; first += kStep) {
    if (kBytes - first >= kStep || mine < kBytes - first) ptx::cp_async_16(address + first, from + mine + first);
  }
}

template <class P>
__device__ inline void scores(const Shared<P>& shared, int warp, int lane, std::int32_t (&s)[8][4]) {
  const std::uint32_t q = lane_address<P::kQkRow>(shared.q, warp * kWarpRows + lane % 16, lane / 16 * 16);
  const std::uint32_t k = lane_address<P::kQkRow>(shared.k, lane / 16 * 8 + lane % 8, lane / 8 % 2 * 16);
#pragma unroll
  for (int byte = 0; byte < P::kQkRow; byte += 32) {
    std::uint32_t a[4];
    ptx::ldmatrix_x4(a, q ^ byte);
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      std::uint32_t b[4];
      ptx::ldmatrix_x4(b, (k ^ byte) + pair * 16 * P::kQkRow);
      if constexpr (P::kQkBits == 8) {
        ptx::mma_s8(s[2 * pair], a, b[0], b[1]);
        ptx::mma_s8(s[2 * pair + 1], a, b[2], b[3]);
      } else {
        ptx::mma_s4(s[2 * pair], a, b[0], b[1]);
        ptx::mma_s4(s[2 * pair + 1], a, b[2], b[3]);
      }
    }
  }
}

/// A lane's part of the address of V.
template <class P>
__device__ inline std::uint32_t v_address(const Shared<P>& shared, int lane) {
  if constexpr (P::kV == Format::fp16) return lane_address<P::kVRow>(shared.v, lane, 0);
  return lane_address<P::kVRow>(shared.v, lane % 8, lane / 8 * 16);
}

/// B fragments of 8 channels, all keys of the tile.
template <class P>
__device__ inline void load_v(std::uint32_t v, int channel, std::uint32_t (&b)[kSteps<P::kV>][2]) {
  std::uint32_t r[4];
#pragma unroll
  for (int k = 0; k < kSteps<P::kV>; k += 2) {
    if constexpr (P::kV == Format::fp16) {
      ptx::ldmatrix_x4_transposed(r, (v ^ (channel * 2)) + k * 16 * P::kVRow);
    } else {
      ptx::ldmatrix_x4(r, v + channel * P::kVRow);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) b[k + i / 2][i % 2] = r[i];
  }
}

/// d += P V, from the first key to the last.
template <class P, class Accumulator>
__device__ inline void multiply(Accumulator& d, const std::uint32_t (&p)[kSteps<P::kV>][4],
                                const std::uint32_t (&b)[kSteps<P::kV>][2]) {
#pragma unroll
  for (int k = 0; k < kSteps<P::kV>; ++k) {
    if constexpr (P::kV == Format::fp16) {
      ptx::mma_f16(d, p[k], b[k][0], b[k][1]);
    } else {
      ptx::mma_e4m3(d, p[k], b[k][0], b[k][1]);
    }
  }
}

/// O = alpha O + P V. Eight channels at a time, so that a fresh accumulator costs few registers.
template <class P>
__device__ inline void multiply_v(const Shared<P>& shared, int lane, const std::uint32_t (&p)[kSteps<P::kV>][4],
                                  const float (&alpha)[2], float (&o)[P::kDim / 8][4]) {
  const std::uint32_t v = v_address(shared, lane);
#pragma unroll
  for (int n = 0; n < P::kDim / 8; ++n) {
    __syncwarp();  // keeps ptxas from starting all channels at once, for which there are too few registers
    std::uint32_t b[kSteps<P::kV>][2];
    load_v<P>(v, 8 * n, b);
    if constexpr (P::kAccum == PvAccum::fp32) {
#pragma unroll
      for (int i = 0; i < 4; ++i) o[n][i] *= alpha[i / 2];
      multiply<P>(o[n], p, b);
    } else if constexpr (P::kAccum == PvAccum::fp32_fp32) {
      float tile[4] = {};
      multiply<P>(tile, p, b);
#pragma unroll
      for (int i = 0; i < 4; ++i) o[n][i] = fmaf(o[n][i], alpha[i / 2], tile[i]);
    } else {
      std::uint32_t tile[2] = {};
      multiply<P>(tile, p, b);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        o[n][2 * r] = fmaf(o[n][2 * r], alpha[r], ptx::from_f16x2<0>(tile[r]));
        o[n][2 * r + 1] = fmaf(o[n][2 * r + 1], alpha[r], ptx::from_f16x2<1>(tile[r]));
      }
    }
  }
}

/// o = (O / l) v_scale + v_mean.
template <class P>
__device__ inline void store(const Arguments& in, std::int64_t head, std::int64_t kv_head, std::int64_t first_row,
                             int lane, const Rows& rows, const float (&o)[P::kDim / 8][4]) {
  float inverse[2];
  bool stored[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float l = rows.l[r];
    l += __shfl_xor_sync(0xFFFFFFFFU, l, 1);
    l += __shfl_xor_sync(0xFFFFFFFFU, l, 2);
    inverse[r] = l == 0.0F ? 0.0F : 1.0F / l;
    stored[r] = first_row + 8 * r + lane / 4 < in.q_len;
  }
  const int channels = in.channels;
  float* const to = in.o + (head * in.q_len + first_row + lane / 4) * channels;
  const float* const v_scale = in.v_scale + kv_head * channels;
  const float* const v_mean = in.v_mean + kv_head * channels;
#pragma unroll
  for (int n = 0; n < P::kDim / 8; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int channel = 8 * n + lane % 4 * 2 + c;
      if (channel >= channels) continue;
      const float scale = v_scale[channel];
      const float mean = in.v_mean != nullptr ? v_mean[channel] : 0.0F;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float raw = o[n][2 * r + c] * inverse[r];
        const bool plain = in.v_mean == nullptr || rows.visible[r] == 0;
        if (stored[r]) to[8 * r * channels + channel] = plain ? raw * scale : fmaf(raw, scale, mean);
      }
    }
  }
}

/// One block computes 128 rows of one head; the last rows, which see most under a causal mask, come first.
template <class P>
__global__ void __launch_bounds__(kThreads, 2) attention(const Arguments in) {
  extern __shared__ __align__(128) std::uint8_t memory[];
  auto& shared = *reinterpret_cast<Shared<P>*>(memory);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int t = lane % 4;
  const std::int64_t query_tiles = in.q_rows / kQueryTile;
  const std::int64_t head = blockIdx.x / query_tiles;
  const std::int64_t query_tile = query_tiles - 1 - blockIdx.x % query_tiles;
  const std::int64_t kv_head = head / in.q_heads_per_kv;
  const std::int64_t block_row = query_tile * kQueryTile;
  const std::int64_t first_row = block_row + warp * kWarpRows;
  const auto visible = [&](std::int64_t row) {
    if (row >= in.q_len) return 0;
    if (!in.is_causal) return static_cast<int>(in.kv_len);
    const std::int64_t seen = row + in.causal_shift + 1;
    return static_cast<int>(seen < 0 ? 0 : (seen > in.kv_len ? in.kv_len : seen));
  };
  Rows rows;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const std::int64_t row = first_row + 8 * r + lane / 4;
    rows.visible[r] = visible(row);
    rows.q_scale[r] = row < in.q_len ? in.q_scale[head * in.q_len + row] * in.scale_log2 : 0.0F;
    rows.m[r] = -1e30F;
    rows.l[r] = 0.0F;
  }
  const std::int64_t last_row = block_row + kQueryTile < in.q_len ? block_row + kQueryTile - 1 : in.q_len - 1;
  const int tiles = (visible(last_row) + kKeyTile - 1) / kKeyTile;

  const auto stage_k = [&](int tile) {
    stage<kKeyTile * P::kQkRow, P::kQkRow>(shared.k,
                                           in.k + (kv_head * in.kv_rows + std::int64_t{tile} * kKeyTile) * P::kQkRow);
    if (threadIdx.x < kKeyTile / 4) {
      const std::int64_t key = std::int64_t{tile} * kKeyTile + threadIdx.x * 4;
      ptx::cp_async_16(ptx::shared_address(&shared.k_scale[tile % 2][threadIdx.x * 4]),
                       in.k_scale + kv_head * in.kv_rows + key);
      if (in.delta_s != nullptr) {
        ptx::cp_async_16(ptx::shared_address(&shared.delta_s[tile % 2][threadIdx.x * 4]),
                         in.delta_s + (head * query_tiles + query_tile) * in.kv_rows + key);
      }
    }
  };
  const auto stage_v = [&](int tile) {
    stage<P::kVBytes, P::kVRow>(shared.v, in.v + (kv_head * (in.kv_rows / kKeyTile) + tile) * P::kVBytes);
  };
  if (tiles > 0) {
    stage<kQueryTile * P::kQkRow, P::kQkRow>(shared.q, in.q + (head * in.q_rows + block_row) * P::kQkRow);
    stage_k(0);
    ptx::cp_async_commit();
    stage_v(0);
    ptx::cp_async_commit();
  }
  float o[P::kDim / 8][4] = {};
  std::uint32_t underflow = 0;
  std::uint32_t saturated = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    const int first_key = tile * kKeyTile;
    ptx::cp_async_wait<1>();
    __syncthreads();
    Fragments s;
    {
      std::int32_t products[8][4] = {};
      scores<P>(shared, warp, lane, products);
#pragma unroll
      for (int i = 0; i < 32; ++i) s[i / 4][i % 4] = static_cast<float>(products[i / 4][i % 4]);
    }
    __syncthreads();
    if (tile + 1 < tiles) stage_k(tile + 1);
    ptx::cp_async_commit();
    if (in.delta_s != nullptr) {
      softmax<true>(shared.k_scale[tile % 2], shared.delta_s[tile % 2], first_key, in.offset, t, rows, s);
    } else {
      softmax<false>(shared.k_scale[tile % 2], nullptr, first_key, in.offset, t, rows, s);
    }
    if (in.counts != nullptr) count_lost<P::kV>(s, first_key, t, rows, underflow, saturated);
    std::uint32_t p[kSteps<P::kV>][4];
    round_p<P::kV>(s, p);
    ptx::cp_async_wait<1>();
    __syncthreads();
    multiply_v<P>(shared, lane, p, rows.alpha, o);
    __syncthreads();
    if (tile + 1 < tiles) stage_v(tile + 1);
    ptx::cp_async_commit();
  }
  store<P>(in, head, kv_head, first_row, lane, rows, o);
  if (in.counts != nullptr) {
    auto& counts = in.counts[head];
    atomicAdd(&counts.p_underflow, static_cast<unsigned long long>(underflow));
    atomicAdd(&counts.saturated, static_cast<unsigned long long>(saturated));
    if (t == 0) {
      unsigned long long total = 0;
      for (int r = 0; r < 2; ++r) total += rows.visible[r];
      atomicAdd(&counts.p_total, total);
    }
  }
}

template <class P>
void launch(const Arguments& in, std::int64_t q_heads, cudaStream_t stream) {
  static_assert(sizeof(Shared<P>) <= 48 * 1024, "more needs cudaFuncAttributeMaxDynamicSharedMemorySize");
  const auto blocks = static_cast<unsigned int>(q_heads * (in.q_rows / kQueryTile));
  attention<P><<<blocks, kThreads, sizeof(Shared<P>), stream>>>(in);
  SAGE2_CUDA_CHECK_LAUNCH(attention);
}

template <int kDim, int kBits, Format kV, PvAccum kAccum>
constexpr Instance instance() {
  return {kDim, kBits, kAccum, launch<Policy<kDim, kBits, kV, kAccum>>};
}

/// All kernels of a head dim and a format of P and V.
template <int kDim, Format kV>
std::span<const Instance> instances() {
  static const Instance all[] = {
      instance<kDim, 4, kV, PvAccum::fp32>(),      instance<kDim, 8, kV, PvAccum::fp32>(),
      instance<kDim, 4, kV, PvAccum::fp32_fp32>(), instance<kDim, 8, kV, PvAccum::fp32_fp32>(),
      instance<kDim, 4, kV, PvAccum::fp32_fp16>(), instance<kDim, 8, kV, PvAccum::fp32_fp16>()};
  return all;
}

}  // namespace sage2::cuda::mma
