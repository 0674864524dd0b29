#pragma once

#include <cfloat>

#include "kernels/mma.cuh"
#include "kernels/sm90_prepare_ring.cuh"

/// Sums over rows, and the means of Q's blocks.
namespace sage2::cuda::sm90 {

/// Sums of each channel over the rows the workers hold, one channel a thread (0 beyond kDim); the order is fixed.
template <int kDim>
__device__ __forceinline__ double add_up(PrepareShared<kDim>& s, double (&sum)[8], int chunk) {
  constexpr int kChunks = PrepareShared<kDim>::kChunks;
#pragma unroll
  for (int step = 16; step >= kChunks; step /= 2) {
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] += __shfl_xor_sync(~0U, sum[i], step);
  }
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

/// The sum of a channel over `count` rows: for where a number is not finite, or FP32 sums of a few rows overflow.
template <class T>
__device__ __noinline__ double sum_slowly(const TensorView& x, std::int64_t head, int first, int count, int channel) {
  double sum = 0;
#pragma unroll 4
  for (int i = 0; i < count; ++i) sum += static_cast<double>(to_float(token<T>(x, head, first + i)[channel]));
  return sum;
}

/// Adds up eight channels of this thread's rows of a stage, four rows at a time in FP32 before FP64: exact but for
/// numbers more than 2^11 (FP16) or 2^14 (BF16) times smaller than one of the other three, whose last bits are rounded.
template <int kDim, class T>
__device__ __forceinline__ void sum_rows(const Ring<kDim, T>& ring, double (&sum)[8]) {
  using S = PrepareShared<kDim>;
  static_assert(S::kPasses % 4 == 0);
  const std::uint8_t* const from = ring.mine();
#pragma unroll 1
  for (int pass = 0; pass < S::kPasses; pass += 4) {
    Eight x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = to_floats<T>(*reinterpret_cast<const uint4*>(from + (pass + i) * S::kPassBytes));
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      sum[i] += static_cast<double>((x[0].x[i] + x[2].x[i]) + (x[1].x[i] + x[3].x[i]));
    }
  }
}

/// Sums of a stage's channels by tensor cores, as products with the unit matrix: rows that are 16 apart, up to eight of
/// them, are added there, two such sums in FP32, and the rest in FP64. The first two are exact but for numbers more
/// than 2^9 (FP16) or 2^12 (BF16) times smaller than the largest, whose last bits are lost. A warp takes kColumns
/// channels.
template <int kDim, class T>
class ColumnSums {
  using S = PrepareShared<kDim>;
  static constexpr int kColumns = S::kColumns;
  static constexpr int kSteps = kJobRows / 16 / S::kShares;  ///< of 16 rows

 public:
  __device__ __forceinline__ explicit ColumnSums(const Ring<kDim, T>& ring) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const std::uint32_t from =
        shared_address(ring.rows() + raw_offset(share() * kSteps * 16 + lane % 16, column() / 8 + lane / 16));
    constexpr std::uint32_t kOne = std::is_same_v<T, __half> ? 0x3C00U : 0x3F80U;
    const int row = lane / 4;
    const std::uint32_t one = row / 2 == lane % 4 ? kOne << (row % 2 * 16) : 0;
    const std::uint32_t unit[4] = {one, 0, 0, one};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < kColumns / 16; ++i) {
        std::uint32_t rows[4];
        // The next 16 channels: their two chunks are those of these with bit 1 set, which 32 channels of a warp begin
        // without.
        ptx::ldmatrix_x4_transposed(rows, (from ^ static_cast<std::uint32_t>(i * 32)) + step * 16 * 128);
        multiply(d_[2 * i], unit, rows[0], rows[1]);
        multiply(d_[2 * i + 1], unit, rows[2], rows[3]);
      }
    }
  }
  /// Sums of 16 rows, of 8 if two warps share a channel.
  __device__ __forceinline__ void store(float (*to)[kDim]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float* const mine = to[share() * 8 + lane / 4] + column() + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < kColumns / 8; ++i) {
      *reinterpret_cast<float2*>(mine + i * 8) = {d_[i][0] + d_[i][2], d_[i][1] + d_[i][3]};
    }
  }

 private:
  [[nodiscard]] static __device__ __forceinline__ int column() {
    return static_cast<int>(threadIdx.x) / 32 * kColumns % kDim;
  }
  [[nodiscard]] static __device__ __forceinline__ int share() {
    return static_cast<int>(threadIdx.x) / 32 * kColumns / kDim;
  }
  static __device__ __forceinline__ void multiply(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                                  std::uint32_t b1) {
    if constexpr (std::is_same_v<T, __half>) {
      ptx::mma_f16(d, a, b0, b1);
    } else {
      ptx::mma_bf16(d, a, b0, b1);
    }
  }

  float d_[kColumns / 8][4] = {};
};

/// The mean of a block's channel, from its sums.
template <int kDim, class T>
__device__ __forceinline__ float mean_of(const PrepareParams& p, const float (*sums)[kDim], std::int64_t head,
                                         int first, int count, int channel) {
  double total = 0;
#pragma unroll
  for (int i = 0; i < PrepareShared<kDim>::kSums; ++i) total += static_cast<double>(sums[i][channel]);
  if (!(fabs(total) <= DBL_MAX)) total = sum_slowly<T>(p.q, head, first, count, channel);
  return static_cast<float>(total / static_cast<double>(count));
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
__device__ void q_means(Ring<kDim, T>& ring, const Tile& tile) {
  using S = PrepareShared<kDim>;
  const PrepareParams& p = ring.p;
  const std::int64_t head = tile.head;
  const int start = tile.first;
  const int end = min(start + S::kMeanBlocks * kMeanRows, p.q_len);
  const int blocks = (end - start + kMeanRows - 1) / kMeanRows;
  workers_sync();  // the sums before these have been read
  float of_key = 0;
  for (int block = 0;; ++block) {
    const ColumnSums<kDim, T> sums(ring);
    if (block == blocks - 1) of_key = ring.channels()[threadIdx.x % kDim].mean;
    ring.release();
    sums.store(ring.s.block_sums[block]);
    if (block == blocks - 1) break;
    ring.take();
  }
  workers_sync();
  for (int i = threadIdx.x; i < blocks * kDim; i += kWorkers) {
    const int block = i / kDim;
    const int first = start + block * kMeanRows;
    const float exact =
        mean_of<kDim, T>(p, ring.s.block_sums[block], head, first, min(kMeanRows, end - first), i % kDim);
    const float mean = store_mean<kDim, T>(p, head, first, i % kDim, exact);
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
