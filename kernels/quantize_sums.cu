#include <algorithm>

#include "kernels/cuda_check.hpp"
#include "kernels/quantize_steps.hpp"
#include "kernels/row_tiles.cuh"
#include "reference/formats.hpp"

// Sums in FP64 whose order is part of their meaning: they round where inputs are FP32 or BF16 with wide exponents, so
// they run over ascending tokens as the CPU's do, for every input. The chain of additions costs about ten cycles a
// token, 0.1 ms for 17,776 of them, while all channels of all heads go side by side.
namespace sage2::cuda {
namespace {

constexpr int kColumns = 32;  // of a block; one a lane of the warp that adds
constexpr int kThreads = 256;
constexpr int kStage = 128;  // rows that are fetched ahead
constexpr int kLoads = kStage * kColumns / kThreads;

/// Where a block's columns are: a head's columns [first, first + kColumns).
struct ColumnGroup {
  std::int64_t head;
  int first;
};

__device__ ColumnGroup column_group(const Work& x) {
  const int groups = (x.cols + kColumns - 1) / kColumns;
  return {static_cast<std::int64_t>(blockIdx.x) / groups, static_cast<int>(blockIdx.x) % groups * kColumns};
}

/// Two sides: one is filled while the other is added.
using Staged = float[2][kStage][kColumns];

/// Sum over all tokens of term(x) of a column, in ascending order, for lane l of the first warp column first + l. All
/// threads take part: they fetch while the first warp adds.
template <class Term>
__device__ double ordered_sum(const Work& x, ColumnGroup group, Staged& staged, const Term& term) {
  const int lane = static_cast<int>(threadIdx.x) % kColumns;
  const int row = static_cast<int>(threadIdx.x) / kColumns;
  constexpr int kRowStep = kThreads / kColumns;
  const bool real = group.first + lane < x.cols;
  const float* const column = x.data + group.head * x.padded * x.stride + group.first + lane;
  float next[kLoads];
  const auto fetch = [&](std::int64_t first) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const std::int64_t r = first + row + i * kRowStep;
      next[i] = real && r < x.tokens ? column[r * x.stride] : 0.0F;
    }
  };
  double sum = 0;
  int side = 0;
  fetch(0);
  for (std::int64_t first = 0; first < x.tokens; first += kStage) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) staged[side][row + i * kRowStep][lane] = next[i];
    __syncthreads();
    if (first + kStage < x.tokens) fetch(first + kStage);
    if (row == 0) {
      const int count = static_cast<int>(x.tokens - first < kStage ? x.tokens - first : kStage);
      if (count == kStage) {
#pragma unroll 16
        for (int i = 0; i < kStage; ++i) sum += term(staged[side][i][lane]);
      } else {
        for (int i = 0; i < count; ++i) sum += term(staged[side][i][lane]);
      }
    }
    side ^= 1;
  }
  __syncthreads();  // the next sum uses the same memory
  return sum;
}

__device__ float as_stored(float x, DType dtype) {
  return dtype == DType::float32 ? x : (dtype == DType::float16 ? round_fp16(x) : round_bf16(x));
}

__global__ void __launch_bounds__(kThreads) column_mean_kernel(Work x, DType stored, float* mean) {
  __shared__ Staged staged;
  const auto group = column_group(x);
  const double sum = ordered_sum(x, group, staged, [](float v) { return static_cast<double>(v); });
  const int c = group.first + static_cast<int>(threadIdx.x);
  if (threadIdx.x >= kColumns || c >= x.cols) return;
  mean[group.head * x.cols + c] = as_stored(static_cast<float>(sum / static_cast<double>(x.tokens)), stored);
}

__global__ void __launch_bounds__(kThreads) band_kernel(Work x, double2* band) {
  __shared__ Staged staged;
  const auto group = column_group(x);
  const double sum = ordered_sum(x, group, staged, [](float v) { return static_cast<double>(v); });
  const double mean = sum / static_cast<double>(x.tokens);
  const double squares = ordered_sum(x, group, staged, [mean](float v) {
    const double d = static_cast<double>(v) - mean;
    return d * d;
  });
  const int c = group.first + static_cast<int>(threadIdx.x);
  if (threadIdx.x >= kColumns || c >= x.cols) return;
  const double reach = 3 * sqrt(squares / static_cast<double>(x.tokens));
  band[group.head * x.cols + c] = {mean - reach, mean + reach};
}

__global__ void block_mean_kernel(Work x, std::int64_t block, float* mean) {
  const auto tile = row_tile(x.tokens, block);
  for (int c = static_cast<int>(threadIdx.x); c < x.cols; c += static_cast<int>(blockDim.x)) {
    const float* const column = x.data + tile.head * x.padded * x.stride + c;
    double sum = 0;
#pragma unroll 8
    for (std::int64_t i = tile.first; i < tile.last; ++i) sum += static_cast<double>(column[i * x.stride]);
    mean[static_cast<std::int64_t>(blockIdx.x) * x.cols + c] =
        static_cast<float>(sum / static_cast<double>(tile.last - tile.first));
  }
}

constexpr int kDeltaKeys = 128;    // of a block, one a thread
constexpr int kDeltaBlocks = 8;    // query blocks whose sums a thread carries
constexpr int kDeltaWidest = 256;  // channels

struct DeltaParams {
  const float* q_mean;
  std::int64_t q_heads, blocks;
  Work k;
  std::int64_t ratio;
  double factor;
  float* out;
};

__global__ void __launch_bounds__(kDeltaKeys) delta_kernel(DeltaParams p) {
  __shared__ double means[kDeltaWidest][kDeltaBlocks];
  const std::int64_t key_groups = (p.k.padded + kDeltaKeys - 1) / kDeltaKeys;
  const std::int64_t block_groups = (p.blocks + kDeltaBlocks - 1) / kDeltaBlocks;
  const std::int64_t id = blockIdx.x;
  const std::int64_t key = id % key_groups * kDeltaKeys + threadIdx.x;
  const std::int64_t first = id / key_groups % block_groups * kDeltaBlocks;
  const std::int64_t head = id / key_groups / block_groups;
  for (int e = static_cast<int>(threadIdx.x); e < p.k.cols * kDeltaBlocks; e += kDeltaKeys) {
    const int b = e / p.k.cols;
    const int c = e % p.k.cols;
    const bool real = first + b < p.blocks;
    means[c][b] = real ? static_cast<double>(p.q_mean[(head * p.blocks + first + b) * p.k.cols + c]) * p.factor : 0.0;
  }
  __syncthreads();
  if (key >= p.k.padded) return;
  double sum[kDeltaBlocks] = {};
  if (key < p.k.tokens) {
    const float* const row = p.k.data + (head / p.ratio * p.k.padded + key) * p.k.stride;
    for (int c0 = 0; c0 < p.k.cols; c0 += 4) {
      const float4 four = *reinterpret_cast<const float4*>(row + c0);  // rows are padded to a multiple of 32
      const float values[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (c0 + i >= p.k.cols) break;
        const double value = values[i];
#pragma unroll
        for (int b = 0; b < kDeltaBlocks; ++b) sum[b] += means[c0 + i][b] * value;
      }
    }
  }
#pragma unroll
  for (int b = 0; b < kDeltaBlocks; ++b) {
    if (first + b < p.blocks) {
      p.out[(head * p.blocks + first + b) * p.k.padded + key] = static_cast<float>(sum[b]);
    }
  }
}

unsigned column_groups(const Work& x) {
  return static_cast<unsigned>(x.heads * ((x.cols + kColumns - 1) / kColumns));
}

}  // namespace

void column_means(const Work& x, DType stored, float* mean, cudaStream_t stream) {
  column_mean_kernel<<<column_groups(x), kThreads, 0, stream>>>(x, stored, mean);
  SAGE2_CUDA_CHECK_LAUNCH(column_mean_kernel);
}

void three_sigma_bands(const Work& x, double2* band, cudaStream_t stream) {
  band_kernel<<<column_groups(x), kThreads, 0, stream>>>(x, band);
  SAGE2_CUDA_CHECK_LAUNCH(band_kernel);
}

void block_means(const Work& x, std::int64_t block, float* mean, cudaStream_t stream) {
  const int threads = std::min(256, (x.cols + 31) / 32 * 32);
  block_mean_kernel<<<row_tiles(x.heads, x.tokens, block), threads, 0, stream>>>(x, block, mean);
  SAGE2_CUDA_CHECK_LAUNCH(block_mean_kernel);
}

void delta_scores(const float* q_mean, std::int64_t q_heads, std::int64_t blocks, const Work& k, double factor,
                  float* out, cudaStream_t stream) {
  const std::int64_t key_groups = (k.padded + kDeltaKeys - 1) / kDeltaKeys;
  const std::int64_t block_groups = (blocks + kDeltaBlocks - 1) / kDeltaBlocks;
  const DeltaParams p{q_mean, q_heads, blocks, k, q_heads / k.heads, factor, out};
  delta_kernel<<<static_cast<unsigned>(q_heads * block_groups * key_groups), kDeltaKeys, 0, stream>>>(p);
  SAGE2_CUDA_CHECK_LAUNCH(delta_kernel);
}

}  // namespace sage2::cuda
