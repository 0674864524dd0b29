#include "kernels/cuda_check.hpp"
#include "kernels/quantize_steps.hpp"

// v_outliers=median and =split: order statistics of the channels of V.
namespace sage2::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBuckets = 256;

/// Bits in the order of the numbers: -0 comes before 0, which the CPU takes to be equal; their codes are.
__device__ std::uint32_t ordered(float x) {
  const std::uint32_t bits = __float_as_uint(x);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

__device__ float from_ordered(std::uint32_t key) {
  return __uint_as_float((key & 0x80000000U) != 0 ? key & 0x7FFFFFFFU : ~key);
}

/// One block a channel: the key of rank (tokens - 1) / 2 is found eight bits at a time, then the channel is written.
__global__ void __launch_bounds__(kThreads) median_kernel(Work x, const double2* bands) {
  __shared__ unsigned buckets[kBuckets];
  __shared__ std::uint32_t found;
  __shared__ std::int64_t rank;
  const std::int64_t head = blockIdx.x / static_cast<unsigned>(x.cols);
  const int c = static_cast<int>(blockIdx.x) % x.cols;
  float* const column = x.data + head * x.padded * x.stride + c;
  if (threadIdx.x == 0) {
    found = 0;
    rank = (x.tokens - 1) / 2;
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    buckets[threadIdx.x] = 0;
    __syncthreads();
    const std::uint32_t known = shift == 24 ? 0U : ~0U << (shift + 8);
    for (std::int64_t i = threadIdx.x; i < x.tokens; i += kThreads) {
      const std::uint32_t key = ordered(column[i * x.stride]);
      if ((key & known) == found) atomicAdd(buckets + ((key >> shift) & 0xFFU), 1U);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      unsigned digit = 0;
      while (rank >= buckets[digit]) rank -= buckets[digit++];
      found |= digit << shift;
    }
    __syncthreads();
  }
  const float median = from_ordered(found);
  const double2 band = bands[head * x.cols + c];
  for (std::int64_t i = threadIdx.x; i < x.tokens; i += kThreads) {
    const double v = column[i * x.stride];
    if (v < band.x || v > band.y) column[i * x.stride] = median;
  }
}

/// One block a head, a thread a channel.
__global__ void choose_kernel(const std::uint32_t* amax, int cols, int outliers, std::uint32_t* rest_channels,
                              std::uint32_t* outlier_channels) {
  __shared__ bool is_outlier[kThreads];
  const int c = static_cast<int>(threadIdx.x);
  const std::int64_t head = blockIdx.x;
  const std::uint32_t* const largest = amax + head * cols;
  if (c < cols) {
    int before = 0;
    for (int other = 0; other < cols; ++other) {
      before += largest[other] > largest[c] || (largest[other] == largest[c] && other < c) ? 1 : 0;
    }
    is_outlier[c] = before < outliers;
  }
  __syncthreads();
  if (c >= cols) return;
  int outliers_before = 0;
  for (int other = 0; other < c; ++other) outliers_before += is_outlier[other] ? 1 : 0;
  if (is_outlier[c]) {
    outlier_channels[head * outliers + outliers_before] = static_cast<std::uint32_t>(c);
  } else {
    rest_channels[head * (cols - outliers) + c - outliers_before] = static_cast<std::uint32_t>(c);
  }
}

__global__ void all_channels_kernel(std::int32_t count, std::uint32_t* channels) {
  for (int c = static_cast<int>(threadIdx.x); c < count; c += kThreads) {
    channels[static_cast<std::int64_t>(blockIdx.x) * count + c] = static_cast<std::uint32_t>(c);
  }
}

}  // namespace

void replace_by_median(const Work& x, const double2* band, cudaStream_t stream) {
  median_kernel<<<static_cast<unsigned>(x.heads * x.cols), kThreads, 0, stream>>>(x, band);
  SAGE2_CUDA_CHECK_LAUNCH(median_kernel);
}

void choose_outliers(const std::uint32_t* amax, std::int64_t heads, std::int32_t cols, std::int32_t outliers,
                     std::uint32_t* rest_channels, std::uint32_t* outlier_channels, cudaStream_t stream) {
  choose_kernel<<<static_cast<unsigned>(heads), kThreads, 0, stream>>>(amax, cols, outliers, rest_channels,
                                                                       outlier_channels);
  SAGE2_CUDA_CHECK_LAUNCH(choose_kernel);
}

void all_channels(std::int64_t heads, std::int32_t count, std::uint32_t* channels, cudaStream_t stream) {
  all_channels_kernel<<<static_cast<unsigned>(heads), kThreads, 0, stream>>>(count, channels);
  SAGE2_CUDA_CHECK_LAUNCH(all_channels_kernel);
}

}  // namespace sage2::cuda
