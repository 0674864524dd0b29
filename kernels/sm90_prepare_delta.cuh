#pragma once

#include "kernels/sm90_prepare_ring.cuh"
#include "kernels/sm90_wgmma.cuh"

/// dS of smooth Q, by tensor cores.
namespace sage2::cuda::sm90 {

/// The blocks of queries that see a key tile, in groups of kMeanGroup that share a query head.
struct DeltaRange {
  int least;     ///< blocks before it do not see the tile: nobody uses their dS
  int per_head;  ///< groups of a query head
  [[nodiscard]] __device__ __forceinline__ int groups(const PrepareParams& p) const { return p.group * per_head; }
};
__device__ __forceinline__ DeltaRange delta_range(const PrepareParams& p, const Tile& tile) {
  const int least = p.is_causal ? min(p.q_blocks, max(0, tile.first - p.causal_shift) / kMeanRows) : 0;
  return {least, least < p.q_blocks ? p.q_groups - least / kMeanGroup : 0};
}

/// Group i of those: its query head, within those that share the tile, its first block, and those of its units of
/// kMeanUnit blocks that see the tile.
struct DeltaGroup {
  int head, block, first_unit, end_unit;
};
__device__ __forceinline__ DeltaGroup delta_group(const PrepareParams& p, const DeltaRange& range, int i) {
  const int head = p.group == 1 ? 0 : i / range.per_head;
  const int block = (range.least / kMeanGroup + i - head * range.per_head) * kMeanGroup;
  return {head, block, max(0, range.least - block) / kMeanUnit,
          (min(kMeanGroup, p.q_blocks - block) + kMeanUnit - 1) / kMeanUnit};
}

/// Starts the copy of part i of a tile's means, of which a group has kParts, once all warps have left its slot: one
/// thread.
template <int kDim, class T>
__device__ __forceinline__ void bring_means(Ring<kDim, T>& ring, int of_kv, const DeltaRange& range, int i) {
  using S = PrepareShared<kDim>;
  const PrepareParams& p = ring.p;
  const DeltaGroup group = delta_group(p, range, i / S::kParts);
  const std::int64_t head = static_cast<std::int64_t>(of_kv) * p.group + group.head;
  const std::uint8_t* const from =
      part<std::uint8_t>(p, p.at.q_mean) + (head * p.q_groups + group.block / kMeanGroup) * mean_group_bytes(kDim);
  const std::uint32_t bytes = (group.end_unit - group.first_unit) * kMeanUnitBytes;
  const auto at = ring.means(i);
  const int slot = at.stage();
  Barrier& full = ring.s.means_full[slot];
  ring.s.means_empty[slot].wait(at.parity() ^ 1);
  fence_before_copy_of_results();
  full.expect(S::kBoxes * bytes + sizeof(ring.s.mean_shifts[slot]));
#pragma unroll
  for (int box = 0; box < S::kBoxes; ++box) {
    const int first = group.first_unit * kMeanUnitBytes;
    bulk_copy(ring.s.q_means[slot] + box * kMeanBoxBytes + first,
              from + (i % S::kParts * S::kBoxes + box) * kMeanBoxBytes + first, bytes, full);
  }
  bulk_copy(ring.s.mean_shifts[slot], from + mean_shift_offset(kDim), sizeof(ring.s.mean_shifts[slot]), full);
}

/// dS of one key tile for every block of every query head of the group. K is taken as captured: its 16-bit values are
/// exact operands, as they lie in the stage. Smooth K would change a row of dS by a constant only, so K' is not needed;
/// with it, rows are made relative to that of the reference key. A warpgroup has 64 keys, a warp of it a unit of
/// blocks.
template <int kDim, class T>
class DeltaScores {
  using S = PrepareShared<kDim>;

 public:
  /// The first means come while K's codes are computed. Sooner is better (measured).
  __device__ __forceinline__ DeltaScores(Ring<kDim, T>& ring, const Tile& tile)
      : ring_(ring), tile_(tile), range_(delta_range(ring.p, tile)) {
    // The same for all lanes, which the compiler cannot know otherwise: the products take whole warps.
    groups_ = static_cast<int>(once(static_cast<std::uint32_t>(range_.groups(ring.p))));
    bring(0, S::kSlots);
  }
  /// Computes and stores dS, and leaves the tile.
  __device__ __forceinline__ void finish() {
    const PrepareParams& p = ring_.p;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int of_block = static_cast<int>(threadIdx.x / 32 % 4) * kMeanUnit + lane / 4;
    const int keys = p.k_tiles * kTileKeys;
    float* const out = part<float>(p, p.at.delta_s) +
                       static_cast<std::int64_t>(tile_.head) * p.group * p.q_blocks * keys + tile_.first + key() +
                       lane % 4 * 2;
    if (groups_ == 0) ring_.release();
    for (int i = 0; i < groups_; ++i) {
      float shift = 0;
#pragma unroll
      for (int part = 0; part < S::kParts; ++part) {
        const int n = i * S::kParts + part;
        issue(n, part);
        if (part == 0) shift = shift_of(n, of_block);
        wait();
        leave(n);
        bring(n + S::kSlots, 1);
      }
      if (i + 1 == groups_) ring_.release();
      shift *= -p.delta_scale;
      float value[16];
#pragma unroll
      for (int n = 0; n < 16; ++n) {  // the high and the low half's product
        const int at = n / 2 * 4 + n % 2;
        value[n] = fmaf(d_[at] + d_[at + 2], p.delta_scale, shift);
      }
      const DeltaGroup group = delta_group(p, range_, i);
      const int block = group.block + of_block;
      if (block >= range_.least && block < p.q_blocks) {
        float* const to = out + static_cast<std::int64_t>(group.head * p.q_blocks + block) * keys;
        // Streaming: these are as many bytes as Q at 8k tokens, and this kernel does not read them.
#pragma unroll
        for (int n = 0; n < 8; ++n) {
          __stcs(reinterpret_cast<float2*>(to + n * 8), float2{value[2 * n], value[2 * n + 1]});
        }
      }
    }
    ring_.means_taken += static_cast<unsigned>(groups_ * S::kParts);
  }

 private:
  /// Of this thread's warpgroup, the first in the tile.
  [[nodiscard]] static __device__ __forceinline__ int key() {
    return static_cast<int>(threadIdx.x) / 128 * 64;
  }

  /// Brings `count` parts of means from the first-th on, as far as there are such.
  __device__ __forceinline__ void bring(int first, int count) {
    if (threadIdx.x == 0) {
      const int end = min(groups_ * S::kParts, first + count);
#pragma unroll 1
      for (int i = first; i < end; ++i) bring_means<kDim, T>(ring_, tile_.head, range_, i);
    }
    __syncwarp();
  }

  /// Starts the products of the n-th part of means, part `part` of its group.
  __device__ __forceinline__ void issue(int n, int part) {
    const auto at = ring_.means(n);
    ring_.s.means_full[at.stage()].wait(at.parity());
    __syncwarp();
    const auto low = [](const void* operand) {
      return once(static_cast<std::uint32_t>(matrix<Swizzle::bytes128>(operand)));
    };
    const std::uint32_t means = low(ring_.s.q_means[at.stage()]);
    const std::uint32_t rows = low(ring_.rows() + raw_offset(key(), part * S::kBoxes * 8));
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < S::kBoxes * kBoxChannels / 16; ++k) {  // 16 channels, 32 bytes of a row
      const std::uint32_t step = k % 4 * 2;
      wgmma_16bit<T>(d_, matrix<Swizzle::bytes128>(means + k / 4 * (kMeanBoxBytes / 16) + step),
                     matrix<Swizzle::bytes128>(rows + k / 4 * (kJobRows * 128 / 16) + step), part > 0 || k > 0);
    }
    wgmma_commit();
  }
  __device__ __forceinline__ void wait() {
    wgmma_wait<0>();
    hold(d_);
  }
  /// This thread needs part n of the means no longer.
  __device__ __forceinline__ void leave(int n) {
    ring_.s.means_empty[ring_.means(n).stage()].arrive();
  }
  [[nodiscard]] __device__ __forceinline__ float shift_of(int n, int of_block) const {
    return ring_.s.mean_shifts[ring_.means(n).stage()][of_block];
  }

  Ring<kDim, T>& ring_;
  const Tile& tile_;
  DeltaRange range_;
  int groups_ = 0;
  float d_[32];  ///< of two keys with a block's high half, the same with its low half, and so on with every 8th key
};

}  // namespace sage2::cuda::sm90
