#pragma once

#include <cuda.h>

#include "kernels/load.cuh"
#include "kernels/sm90_async.cuh"
#include "kernels/sm90_codes.cuh"
#include "kernels/sm90_jobs.hpp"

/// What the jobs of the preparation share. Blocks stay on their multiprocessor. One warp takes jobs from a counter and
/// brings their rows into a ring of stages by the copy engine; eight warps work on what is there. 16-byte chunks of a
/// row are the unit of reading, kDim / 8 threads a row.
namespace sage2::cuda::sm90 {

inline constexpr int kWorkers = 256;  ///< threads that work; 32 more bring the rows
inline constexpr int kPrepareThreads = kWorkers + 32;

/// The tensors as the copy engine sees them, where it can.
struct PrepareMaps {
  CUtensorMap q, k, v;
};

/// Counters in device memory, zero at the start. [heads] arrays follow the ticket, the attention kernel's numbers them.
struct Progress {
  int* ticket;
  int* k_chunks;  ///< statistics jobs that are done
  int* v_chunks;
  int* k_ready;   ///< the mean is there
  int* v_ready;   ///< scales and mean are there
  int* q_blocks;  ///< blocks of Q (all heads of the group) whose means, and their products with the reference key, are
                  ///< there
};
inline constexpr std::size_t kProgressHead = 64;  ///< bytes before the arrays
inline std::size_t progress_bytes(std::int64_t kv_count) {
  return kProgressHead + static_cast<std::size_t>(6 * kv_count + 1) * sizeof(int);
}
/// AttentionParams::next_tile, in bytes from the counters' beginning.
inline std::size_t next_tile_offset(std::int64_t kv_count) {
  return kProgressHead + static_cast<std::size_t>(kv_count) * 5 * sizeof(int);
}
__device__ __forceinline__ Progress progress_of(const PrepareParams& p) {
  auto* const head = reinterpret_cast<int*>(p.base + p.at.progress);
  auto* const arrays = reinterpret_cast<int*>(p.base + p.at.progress + kProgressHead);
  const std::int64_t n = p.kv_count;
  return {head, arrays, arrays + n, arrays + 2 * n, arrays + 3 * n, arrays + 4 * n};
}

template <class T>
__device__ __forceinline__ T* part(const PrepareParams& p, std::size_t offset) {
  return reinterpret_cast<T*>(p.base + offset);
}

/// What lies in a stage: rows first .. first + count - 1 of a head (of Q's heads or of K's).
struct Tile {
  JobKind kind;
  int head, first, count;
  int copied;  ///< zero: the copy engine cannot read the tensor, and the workers load the rows themselves
};

/// Mean of a channel (for queries, the reference key's number); of V also its scale, and the scale's inverse, or 0
/// where it must be divided by.
struct Channel {
  float mean, scale, inverse;
};

/// Means of kMeanGroup blocks of queries, an operand of 64 rows for the tensor cores: of every kMeanUnit blocks first
/// the high and then the low halves, so that both products are a thread's; boxes of kBoxChannels with rows of 128
/// bytes, their chunks exchanged as in box_offset. Behind the boxes a float a block, its product with the reference
/// key.
inline constexpr int kMeanUnit = 8;
inline constexpr int kMeanUnitBytes = 2 * kMeanUnit * 128;  ///< in a box
inline constexpr int kMeanBoxBytes = kMeanGroup / kMeanUnit * kMeanUnitBytes;
constexpr int mean_shift_offset(int dim) {
  return dim / kBoxChannels * kMeanBoxBytes;
}
constexpr int mean_group_bytes(int dim) {
  return mean_shift_offset(dim) + kMeanGroup * static_cast<int>(sizeof(float));
}

template <int kDim>
struct PrepareShared {
  static constexpr int kChunks = kDim / 8;          ///< threads a row
  static constexpr int kRows = kWorkers / kChunks;  ///< rows at a time
  static constexpr int kPasses = kJobRows / kRows;  ///< of the workers over a stage
  static constexpr int kPassBytes = kRows * 128;
  static_assert(kRows % 8 == 0);  // so that chunks of all rows of a thread are exchanged alike
  static constexpr int kStages = kDim == 256 ? 1 : 2;
  static constexpr int kMeanBlocks = mean_blocks(kDim);
  static constexpr int kColumns = kDim == 256 ? 32 : 16;           ///< whose sums a warp takes (ColumnSums)
  static constexpr int kShares = kWorkers / 32 * kColumns / kDim;  ///< of a block's rows, each of other warps
  static constexpr int kSums = 8 * kShares;                        ///< of a block's channel
  static constexpr int kSlots = 2;                                 ///< of means of queries
  static constexpr int kBoxes = kDim == 64 ? 1 : 2;                ///< of a group in a slot
  static constexpr int kParts = kDim / (kBoxChannels * kBoxes);    ///< slots that a group takes
  alignas(1024) std::uint8_t raw[kStages][kJobRows * kDim * 2];
  // Of one tile after another; a tile of K's codes (q_means) may do without a barrier. So every other job has one
  // before its first writing here, and another one behind its last reading.
  union {
    double sums[kWorkers / 32][kDim];            ///< of a warp
    float block_sums[kMeanBlocks][kSums][kDim];  ///< of a few rows
    uint4 extremes[2][kWorkers / 32][kChunks];   ///< low, high, of a warp
    alignas(1024) std::uint8_t q_means[kSlots][kBoxes * kMeanBoxBytes];
  };
  alignas(16) float mean_shifts[kSlots][kMeanGroup];
  Channel channel[kStages][kDim];
  Tile tile[kStages];
  // Of a stage, too: a worker that writes them has seen all others leave the tile before in this stage.
  float mean[kStages][kDim];
  alignas(16) float row_max[kStages][kJobRows];
  Scale row_scale[kStages][kJobRows];
  float shift[kMeanBlocks][kDim / 32];  ///< a warp's part of the means' products with a key
  Barrier full[kStages], empty[kStages];
  Barrier means_full[kSlots], means_empty[kSlots];
  int last;
};

/// Byte of a chunk of a row in a stage.
__device__ __forceinline__ int raw_offset(int row, int chunk) {
  return box_offset(kJobRows, row, chunk / 8, chunk % 8);
}

template <class T>
__device__ __forceinline__ float round_like(float x) {
  if constexpr (std::is_same_v<T, __half>) {
    return __half2float(__float2half_rn(x));
  } else {
    return __bfloat162float(__float2bfloat16_rn(x));
  }
}

/// The workers' barrier.
__device__ __forceinline__ void workers_sync() {
  named_sync(1, kWorkers);
}

/// Adds to a counter in device memory; what this thread has seen written before is visible to whoever sees the sum.
__device__ __forceinline__ int add_in_order(int* counter, int value) {
  int before;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;\n" : "=r"(before) : "l"(counter), "r"(value) : "memory");
  return before;
}

/// Publishes what the workers have written and counts it; true for the job that completes `total`, which must read
/// what others wrote past its first-level cache.
__device__ __forceinline__ bool complete(int* counter, int total, int& last) {
  workers_sync();
  if (threadIdx.x == 0) last = add_in_order(counter, 1) == total - 1 ? 1 : 0;
  workers_sync();
  return last != 0;
}

__device__ __forceinline__ void publish(int* flag) {
  workers_sync();
  if (threadIdx.x == 0) count_in_order(flag, 1);
}

}  // namespace sage2::cuda::sm90
