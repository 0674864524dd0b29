#pragma once

#include <cuda_runtime_api.h>

#include "datasets/problem.hpp"

/// Made-up tensors on the device, for benchmarks.
namespace sage2::cuda {

/// Fills a contiguous FP16 or BF16 tensor [heads, tokens, channels] with N(0, 1) numbers, to which each channel of each
/// head adds a number of its own from N(0, bias^2): what the channel outliers of real Q and K look like to smoothing.
/// The same values for the same seed, whatever the device.
void fill_noise(void* data, DType dtype, std::int64_t heads, std::int64_t tokens, std::int64_t channels, float bias,
                std::uint32_t seed, cudaStream_t stream);

}  // namespace sage2::cuda
