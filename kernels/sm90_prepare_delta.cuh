#pragma once

#include "kernels/mma.cuh"
#include "kernels/sm90_prepare_ring.cuh"

/// dS of smooth Q, by tensor cores.
namespace sage2::cuda::sm90 {

/// d += a b, m16n8k16 in the tensors' own format.
template <class T>
__device__ __forceinline__ void mma_16bit(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                          std::uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>) {
    ptx::mma_f16(d, a, b0, b1);
  } else {
    ptx::mma_bf16(d, a, b0, b1);
  }
}

/// The blocks of queries that see a key tile, in chunks of kGroups groups that share a query head.
struct DeltaRange {
  int least;     ///< blocks before it do not see the tile: nobody reads their dS
  int per_head;  ///< chunks of a query head
  [[nodiscard]] __device__ __forceinline__ int chunks(const PrepareParams& p) const { return p.group * per_head; }
};
template <int kDim>
__device__ __forceinline__ DeltaRange delta_range(const PrepareParams& p, const Tile& tile) {
  constexpr int kGroups = PrepareShared<kDim>::kGroups;
  const int least = p.is_causal ? min(p.q_blocks, max(0, tile.first - p.causal_shift) / kMeanRows) : 0;
  const int per_head = least < p.q_blocks ? (p.q_groups - least / kMeanGroup + kGroups - 1) / kGroups : 0;
  return {least, per_head};
}

/// The query head of a chunk, within those that share the tile, its first group and the number of them.
struct DeltaChunk {
  int head, group, groups;
};
template <int kDim>
__device__ __forceinline__ DeltaChunk delta_chunk(const PrepareParams& p, const DeltaRange& range, int i) {
  constexpr int kGroups = PrepareShared<kDim>::kGroups;
  const int head = p.group == 1 ? 0 : i / range.per_head;
  const int group = range.least / kMeanGroup + (i - head * range.per_head) * kGroups;
  return {head, group, min(kGroups, p.q_groups - group)};
}

/// Starts the copy of a chunk's means once all warps have left its slot: one thread.
template <int kDim, class T>
__device__ __forceinline__ void bring_means(Ring<kDim, T>& ring, int of_kv, const DeltaRange& range, int i) {
  const DeltaChunk chunk = delta_chunk<kDim>(ring.p, range, i);
  const std::int64_t head = static_cast<std::int64_t>(of_kv) * ring.p.group + chunk.head;
  const std::uint32_t bytes = chunk.groups * mean_group_bytes(kDim);
  const auto at = ring.means(i);
  const int slot = at.stage();
  ring.s.means_empty[slot].wait(at.parity() ^ 1);
  fence_before_copy_of_results();
  ring.s.means_full[slot].expect(bytes);
  const std::uint8_t* const from =
      part<std::uint8_t>(ring.p, ring.p.at.q_mean) + (head * ring.p.q_groups + chunk.group) * mean_group_bytes(kDim);
  bulk_copy(ring.s.q_means[slot], from, bytes, ring.s.means_full[slot]);
}

/// The first means come while K's codes are computed. Called before these: later, at the job's barrier, it is slower.
template <int kDim, class T>
__device__ __forceinline__ void begin_means(Ring<kDim, T>& ring, const Tile& tile, const DeltaRange& range) {
  if (threadIdx.x != 0) return;
  const int count = min(range.chunks(ring.p), PrepareShared<kDim>::kSlots);
  for (int i = 0; i < count; ++i) bring_means<kDim, T>(ring, tile.head, range, i);
}

/// dS of one key tile for every block of every query head of the group. K is taken as captured: its 16-bit values are
/// exact operands. K' differs by its mean, which shifts a block's whole row of dS by a constant (begin_shift), and that
/// is subtracted so that dS stays as small as the variant means it (the softmax would cancel it). Warps wait for copies
/// only, and not for each other.
template <int kDim, class T>
__device__ void delta_scores(Ring<kDim, T>& ring, const Tile& tile, const DeltaRange& range) {
  using S = PrepareShared<kDim>;
  const PrepareParams& p = ring.p;
  S& s = ring.s;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int key = threadIdx.x / 32 * 16;  // a warp's 16 keys, two columns of 8
  // B: K^T, kept in registers over all blocks: b[k][2 n + half]. Keys 4t and 4t + 1 are numbers 2t and 2t + 1 of the
  // first column, 4t + 2 and 4t + 3 of the second: a thread gets dS of four keys in a row.
  std::uint32_t b[kDim / 16][4];
  {
    const int row = key + lane % 8 / 2 * 4 + lane / 16 * 2 + lane % 2;
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      ptx::ldmatrix_x4(b[k], shared_address(ring.rows() + raw_offset(row, 2 * k + lane / 8 % 2)));
    }
  }
  ring.release();
  const int keys = p.k_tiles * kTileKeys;
  float* const out = part<float>(p, p.at.delta_s) + static_cast<std::int64_t>(tile.head) * p.group * p.q_blocks * keys +
                     tile.first + key + 4 * t;
  const int chunks = range.chunks(p);
  for (int i = 0; i < chunks; ++i) {
    // The slot of the chunk before is the next one to be free.
    if (threadIdx.x == 0 && i > 0 && i + S::kSlots - 1 < chunks) {
      bring_means<kDim, T>(ring, tile.head, range, i + S::kSlots - 1);
    }
    const DeltaChunk chunk = delta_chunk<kDim>(p, range, i);
    const auto at = ring.means(i);
    const int slot = at.stage();
    s.means_full[slot].wait(at.parity());
    const auto compute = [&]<int kCount>() {
      const std::uint8_t* const means = s.q_means[slot];
      float d[kCount][2][4] = {};
#pragma unroll
      for (int level = 1; level >= 0; --level) {  // the low halves first
#pragma unroll
        for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
          for (int m = 0; m < kCount; ++m) {
            const uint4 raw = *reinterpret_cast<const uint4*>(means + m * mean_group_bytes(kDim) +
                                                              (level * (kDim / 16) + k) * 512 + lane * 16);
            const std::uint32_t a[4] = {raw.x, raw.y, raw.z, raw.w};
            mma_16bit<T>(d[m][0], a, b[k][0], b[k][1]);
            mma_16bit<T>(d[m][1], a, b[k][2], b[k][3]);
          }
        }
      }
      float shift[kCount][2];
#pragma unroll
      for (int m = 0; m < kCount; ++m) {
        const auto* const of_group =
            reinterpret_cast<const float*>(means + m * mean_group_bytes(kDim) + mean_shift_offset(kDim));
        shift[m][0] = of_group[g];
        shift[m][1] = of_group[g + 8];
      }
      s.means_empty[slot].arrive();
      float* const to = out + static_cast<std::int64_t>(chunk.head * p.q_blocks + chunk.group * kMeanGroup) * keys;
#pragma unroll
      for (int m = 0; m < kCount; ++m) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int row = m * kMeanGroup + g + 8 * r;
          const int block = chunk.group * kMeanGroup + row;
          if (block < range.least || block >= p.q_blocks) continue;
          const auto value = [&](int n, int e) { return (d[m][n][2 * r + e] - shift[m][r]) * p.delta_scale; };
          // Streaming: these are as many bytes as Q at 8k tokens, and this kernel does not read them.
          __stcs(reinterpret_cast<float4*>(to + static_cast<std::int64_t>(row) * keys),
                 float4{value(0, 0), value(0, 1), value(1, 0), value(1, 1)});
        }
      }
    };
    if (chunk.groups == S::kGroups) {
      compute.template operator()<S::kGroups>();
    } else {
      compute.template operator()<1>();
    }
  }
  ring.means_taken += static_cast<unsigned>(chunks);
}

}  // namespace sage2::cuda::sm90
