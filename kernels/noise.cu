#include <stdexcept>

#include "kernels/cuda_check.hpp"
#include "kernels/load.cuh"
#include "kernels/noise.hpp"

namespace sage2::cuda {
namespace {

/// A 64-bit mixer (SplitMix64's): neighbours in, independent words out.
__device__ std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

/// The index-th number of a stream of N(0, 1) numbers, by Box and Muller.
__device__ float normal(std::uint64_t index, std::uint32_t seed) {
  const std::uint64_t word = mix(index + 0x9E3779B97F4A7C15ULL * (seed + 1ULL));
  const float u = (static_cast<float>(word >> 40) + 0.5F) * 0x1p-24F;
  const float angle = 6.2831853F * static_cast<float>(word & 0xFFFFFF) * 0x1p-24F;
  return sqrtf(-2.0F * logf(u)) * cosf(angle);
}

template <class T>
__global__ void noise_kernel(T* out, std::int64_t count, std::int64_t per_head, std::int64_t channels, float bias,
                             std::uint32_t seed) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    const std::int64_t channel = i / per_head * channels + i % channels;
    out[i] = static_cast<T>(normal(i, 2 * seed) + bias * normal(channel, 2 * seed + 1));
  }
}

}  // namespace

void fill_noise(void* data, DType dtype, std::int64_t heads, std::int64_t tokens, std::int64_t channels, float bias,
                std::uint32_t seed, cudaStream_t stream) {
  with_element_type(dtype, [&]<class T>(const T*) {
    if constexpr (std::is_same_v<T, float>) {
      throw std::invalid_argument("fill_noise: FP16 or BF16 is expected");
    } else {
      noise_kernel<<<2048, 256, 0, stream>>>(static_cast<T*>(data), heads * tokens * channels, tokens * channels,
                                             channels, bias, seed);
      SAGE2_CUDA_CHECK_LAUNCH(noise_kernel);
    }
  });
}

}  // namespace sage2::cuda
