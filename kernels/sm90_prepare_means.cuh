#pragma once

#include "kernels/sm90_prepare_ring.cuh"

/// Sums over rows, and the means of Q's blocks.
namespace sage2::cuda::sm90 {

/// Sums over the rows that a warp holds.
template <int kDim>
__device__ __forceinline__ void add_up_warp(double (&sum)[8]) {
#pragma unroll
  for (int step = 16; step >= PrepareShared<kDim>::kChunks; step /= 2) {
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] += __shfl_xor_sync(~0U, sum[i], step);
  }
}

/// Sums of each channel over the rows the workers hold, one channel a thread (0 beyond kDim); the order is fixed.
template <int kDim>
__device__ __forceinline__ double add_up(PrepareShared<kDim>& s, double (&sum)[8], int chunk) {
  constexpr int kChunks = PrepareShared<kDim>::kChunks;
  add_up_warp<kDim>(sum);
  workers_sync();  // the sums before these have been read
  if (threadIdx.x % 32 < kChunks) {
#pragma unroll
    for (int i = 0; i < 8; ++i) s.sums[threadIdx.x / 32][chunk * 8 + i] = sum[i];
  }
  workers_sync();
  double total = 0;
  if (threadIdx.x < kDim) {
#pragma unroll
    for (int warp = 0; warp < kWorkers / 32; ++warp) total += s.sums[warp][threadIdx.x];
  }
  return total;
}

/// Where the means of a block's group lie; `first` is a row of the block.
template <int kDim>
__device__ __forceinline__ std::uint8_t* mean_group(const PrepareParams& p, std::int64_t head, int first) {
  const std::int64_t group = head * p.q_groups + first / (kMeanRows * kMeanGroup);
  return part<std::uint8_t>(p, p.at.q_mean) + group * mean_group_bytes(kDim);
}
/// And the high half of a channel of a block within its group; the low one is kMeanUnit rows further.
__device__ __forceinline__ int mean_offset(int first, int channel) {
  const int row = first / kMeanRows % kMeanGroup;
  return channel / kBoxChannels * kMeanBoxBytes + row / kMeanUnit * kMeanUnitBytes +
         box_offset(0, row % kMeanUnit, 0, channel % kBoxChannels / 8) + channel % 8 * 2;
}

/// Where a block's product with the reference key lies, behind its group's means.
template <int kDim>
__device__ __forceinline__ float& mean_shift(const PrepareParams& p, std::int64_t head, int first) {
  auto* const shifts = reinterpret_cast<float*>(mean_group<kDim>(p, head, first) + mean_shift_offset(kDim));
  return shifts[first / kMeanRows % kMeanGroup];
}

/// This thread's sums of eight channels over its rows of a stage.
template <int kDim, class T>
__device__ __forceinline__ void sum_rows(const Ring<kDim, T>& ring, double (&sum)[8]) {
  using S = PrepareShared<kDim>;
  const std::uint8_t* const from = ring.mine();
#pragma unroll 4
  for (int pass = 0; pass < S::kPasses; ++pass) {
    const Eight x = to_floats<T>(*reinterpret_cast<const uint4*>(from + pass * S::kPassBytes));
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] += static_cast<double>(x.x[i]);
  }
}

/// Stores the mean of a block's channel: as it is, and in two 16-bit halves for the tensor cores that compute dS; these
/// add up to what is returned.
template <int kDim, class T>
__device__ __forceinline__ float store_mean(const PrepareParams& p, std::int64_t head, int first, int channel,
                                            float m) {
  const std::int64_t block = head * p.q_blocks + first / kMeanRows;
  part<float>(p, p.at.q_block_mean)[block * kDim + channel] = m;
  const float high = round_like<T>(m);
  std::uint8_t* const to = mean_group<kDim>(p, head, first) + mean_offset(first, channel);
  *reinterpret_cast<T*>(to) = static_cast<T>(high);
  const float low = round_like<T>(m - high);
  *reinterpret_cast<T*>(to + kMeanUnit * 128) = static_cast<T>(low);
  return high + low;
}

/// The product of a block's mean and the reference key: first every warp's 32 channels, and behind a barrier all of
/// them.
template <int kDim>
__device__ __forceinline__ void begin_shift(PrepareShared<kDim>& s, int block, int channel, float product) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) product += __shfl_xor_sync(~0U, product, step);
  if (channel % 32 == 0) s.shift[block][channel / 32] = product;
}
template <int kDim>
__device__ __forceinline__ float end_shift(const PrepareShared<kDim>& s, int block) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kDim / 32; ++i) sum += s.shift[block][i];
  return sum;
}

/// Means of up to kMeanBlocks blocks of queries, where codes of Q are not wanted.
template <int kDim, class T>
__device__ void q_means(Ring<kDim, T>& ring, Tile tile) {
  using S = PrepareShared<kDim>;
  const PrepareParams& p = ring.p;
  const int chunk = threadIdx.x % S::kChunks;
  const std::int64_t head = tile.head;
  const int start = tile.first;
  const int end = min(start + S::kMeanBlocks * kMeanRows, p.q_len);
  const int blocks = (end - start + kMeanRows - 1) / kMeanRows;
  workers_sync();  // the sums before these have been read
  float of_key = 0;
  for (int block = 0;; ++block) {
    double sum[8] = {};
    sum_rows(ring, sum);
    if (block == blocks - 1) of_key = ring.channels()[threadIdx.x % kDim].mean;
    ring.release();
    add_up_warp<kDim>(sum);
    if (threadIdx.x % 32 < S::kChunks) {
#pragma unroll
      for (int i = 0; i < 8; ++i) ring.s.block_sums[block][threadIdx.x / 32][chunk * 8 + i] = sum[i];
    }
    if (block == blocks - 1) break;
    tile = ring.take();
  }
  workers_sync();
  for (int i = threadIdx.x; i < blocks * kDim; i += kWorkers) {
    const int block = i / kDim;
    const int first = start + block * kMeanRows;
    double total = 0;
#pragma unroll
    for (int warp = 0; warp < kWorkers / 32; ++warp) total += ring.s.block_sums[block][warp][i % kDim];
    const int count = min(kMeanRows, end - first);
    const float mean =
        store_mean<kDim, T>(p, head, first, i % kDim, static_cast<float>(total / static_cast<double>(count)));
    begin_shift(ring.s, block, i % kDim, mean * of_key);
  }
  workers_sync();
  if (threadIdx.x >= 32) return;
  const int mine = static_cast<int>(threadIdx.x);
  if (mine < blocks) mean_shift<kDim>(p, head, start + mine * kMeanRows) = end_shift(ring.s, mine);
  __syncwarp();
  if (threadIdx.x == 0) count_in_order(progress_of(p).q_blocks + head / p.group, blocks);
}

}  // namespace sage2::cuda::sm90
