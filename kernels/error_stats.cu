#include "kernels/cuda_check.hpp"
#include "kernels/error_stats_kernels.hpp"

namespace sage2::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
/// Elements a thread loads before it uses the first.
constexpr int kBatch = 8;
constexpr int kJoinThreads = 128;
constexpr unsigned kAllLanes = 0xFFFFFFFFU;

/// high + low += x, without loss. NaN and infinity both end as NaN.
__device__ void add(double& high, double& low, double x) {
  const double sum = high + x;
  const double of_x = sum - high;
  low += (high - (sum - of_x)) + (x - of_x);
  high = sum;
}

struct Counts {
  unsigned long long max_bits = 0;
  std::uint32_t nan = 0, inf = 0, nonfinite = 0, zeros = 0;
  std::uint32_t first = kHighestErrorBucket, last = 0;
};

__device__ bool is_finite(double x) {
  return (__double2hiint(x) & 0x7FF00000) != 0x7FF00000;
}

__device__ void add_element(double ref, float out, double (&sums)[kErrorSumCount], Counts& counts,
                            std::uint32_t* histogram) {
  const double wide = out;
  const double error = fabs(ref - wide);
  sums[0] = fma(ref, ref, sums[0]);
  sums[1] = fma(wide, wide, sums[1]);
  sums[2] = fma(ref, wide, sums[2]);
  sums[3] += error;
  sums[4] += fabs(ref);
  sums[5] = fma(error, error, sums[5]);
  if (!is_finite(error)) {
    ++counts.nonfinite;
    counts.nan += isnan(out) ? 1 : 0;
    counts.inf += isinf(out) ? 1 : 0;
    return;
  }
  // Non-negative doubles are ordered as their bits are.
  counts.max_bits = max(counts.max_bits, static_cast<unsigned long long>(__double_as_longlong(error)));
  const std::uint32_t bucket = error_bucket(error);
  if (bucket == kZeroErrorBucket) {
    ++counts.zeros;
    return;
  }
  counts.first = min(counts.first, bucket);
  counts.last = max(counts.last, bucket);
  atomicAdd(histogram + (bucket - kLowestErrorBucket), 1U);
}

/// Another chunk, or part of one, joined to `mine`.
__device__ void join(ErrorPartial& mine, const ErrorPartial& other) {
  for (int k = 0; k < kErrorSumCount; ++k) {
    add(mine.high[k], mine.low[k], other.high[k]);
    mine.low[k] += other.low[k];
  }
  mine.max_bits = max(mine.max_bits, other.max_bits);
  mine.nan += other.nan;
  mine.inf += other.inf;
  mine.nonfinite += other.nonfinite;
  mine.zeros += other.zeros;
  mine.first = min(mine.first, other.first);
  mine.last = max(mine.last, other.last);
}

/// One chunk of one head a block: a histogram of the chunk in shared memory, sums in registers, joined in a fixed
/// order.
__global__ void __launch_bounds__(kThreads, 2)
    error_stats_kernel(const double* reference, const float* output, std::int64_t elements, std::int64_t chunks,
                       ErrorPartial* partials, unsigned long long* counts_out) {
  extern __shared__ std::uint32_t histogram[];
  __shared__ ErrorPartial parts[kWarps];
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < kErrorBuckets; i += kThreads) histogram[i] = 0;
  __syncthreads();

  const std::int64_t head = blockIdx.x / chunks;
  const std::int64_t begin = blockIdx.x % chunks * kErrorChunk;
  const auto size = static_cast<int>(min(kErrorChunk, elements - begin));
  const double* ref_at = reference + head * elements + begin;
  const float* out_at = output + head * elements + begin;

  // A thread adds 64 elements in plain FP64, as the CPU's lanes do; from there on in twice the precision.
  double sums[kErrorSumCount] = {};
  Counts counts;
  for (int first = thread; first < size; first += kBatch * kThreads) {
    double ref[kBatch];
    float out[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int at = first + i * kThreads;
      ref[i] = at < size ? __ldcs(ref_at + at) : 0;
      out[i] = at < size ? __ldcs(out_at + at) : 0;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i * kThreads < size) add_element(ref[i], out[i], sums, counts, histogram);
    }
  }

  ErrorPartial mine{};
#pragma unroll
  for (int k = 0; k < kErrorSumCount; ++k) {
    mine.high[k] = sums[k];
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const double other_high = __shfl_down_sync(kAllLanes, mine.high[k], step);
      const double other_low = __shfl_down_sync(kAllLanes, mine.low[k], step);
      add(mine.high[k], mine.low[k], other_high);
      mine.low[k] += other_low;
    }
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    counts.max_bits = max(counts.max_bits, __shfl_xor_sync(kAllLanes, counts.max_bits, step));
  }
  mine.max_bits = counts.max_bits;
  mine.nan = __reduce_add_sync(kAllLanes, counts.nan);
  mine.inf = __reduce_add_sync(kAllLanes, counts.inf);
  mine.nonfinite = __reduce_add_sync(kAllLanes, counts.nonfinite);
  mine.zeros = __reduce_add_sync(kAllLanes, counts.zeros);
  mine.first = __reduce_min_sync(kAllLanes, counts.first);
  mine.last = __reduce_max_sync(kAllLanes, counts.last);
  if (thread % 32 == 0) parts[thread / 32] = mine;
  __syncthreads();  // the histogram is complete too

  if (thread == 0) {
    for (int w = 1; w < kWarps; ++w) join(mine, parts[w]);
    partials[blockIdx.x] = mine;
  }
  // Integers: any order gives the same counts.
  std::uint32_t first = kHighestErrorBucket;
  std::uint32_t last = 0;
  for (const ErrorPartial& part : parts) {
    first = min(first, part.first);
    last = max(last, part.last);
  }
  for (auto i = first - kLowestErrorBucket + thread; first <= last && i <= last - kLowestErrorBucket; i += kThreads) {
    if (histogram[i] > 0) atomicAdd(counts_out + head * kErrorBuckets + i, histogram[i]);
  }
}

/// A block a head joins its chunks in their order: one thread does, the others bring them near.
__global__ void join_chunks_kernel(const ErrorPartial* partials, std::int64_t chunks, ErrorPartial* joined) {
  __shared__ ErrorPartial near[kJoinThreads];
  const std::int64_t head = blockIdx.x;
  ErrorPartial mine{};
  mine.first = kHighestErrorBucket;
  for (std::int64_t first = 0; first < chunks; first += kJoinThreads) {
    const auto count = static_cast<int>(min(static_cast<std::int64_t>(kJoinThreads), chunks - first));
    if (static_cast<int>(threadIdx.x) < count) near[threadIdx.x] = partials[head * chunks + first + threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int i = 0; i < count; ++i) join(mine, near[i]);
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) joined[head] = mine;
}

/// A warp a row.
__global__ void row_sums_kernel(const double* reference, const float* output, std::int64_t rows, std::int64_t cols,
                                double* sums_out) {
  const std::int64_t row = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (row >= rows) return;
  double sums[kErrorSumCount] = {};
  for (std::int64_t c = lane; c < cols; c += 32) {
    const double ref = reference[row * cols + c];
    const double out = output[row * cols + c];
    const double error = fabs(ref - out);
    sums[0] = fma(ref, ref, sums[0]);
    sums[1] = fma(out, out, sums[1]);
    sums[2] = fma(ref, out, sums[2]);
    sums[3] += error;
    sums[4] += fabs(ref);
    sums[5] = fma(error, error, sums[5]);
  }
#pragma unroll
  for (int k = 0; k < kErrorSumCount; ++k) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sums[k] += __shfl_xor_sync(kAllLanes, sums[k], step);
    if (lane == k) sums_out[row * kErrorSumCount + k] = sums[k];
  }
}

}  // namespace

void launch_error_stats(const double* reference, const float* output, std::int64_t heads, std::int64_t elements,
                        ErrorPartial* partials, ErrorPartial* joined, unsigned long long* counts, cudaStream_t stream) {
  const std::int64_t chunks = error_chunks(elements);
  constexpr auto kShared = static_cast<int>(kErrorBuckets * sizeof(std::uint32_t));
  SAGE2_CUDA_CHECK(cudaFuncSetAttribute(error_stats_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  error_stats_kernel<<<static_cast<unsigned>(heads * chunks), kThreads, kShared, stream>>>(reference, output, elements,
                                                                                           chunks, partials, counts);
  SAGE2_CUDA_CHECK_LAUNCH(error_stats_kernel);
  join_chunks_kernel<<<static_cast<unsigned>(heads), kJoinThreads, 0, stream>>>(partials, chunks, joined);
  SAGE2_CUDA_CHECK_LAUNCH(join_chunks_kernel);
}

void launch_row_sums(const double* reference, const float* output, std::int64_t rows, std::int64_t cols, double* sums,
                     cudaStream_t stream) {
  constexpr int kRowThreads = 256;
  const std::int64_t blocks = (rows * 32 + kRowThreads - 1) / kRowThreads;
  row_sums_kernel<<<static_cast<unsigned>(blocks), kRowThreads, 0, stream>>>(reference, output, rows, cols, sums);
  SAGE2_CUDA_CHECK_LAUNCH(row_sums_kernel);
}

}  // namespace sage2::cuda
