#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "kernels/device_buffer.hpp"
#include "kernels/device_problem.hpp"
#include "reference/variant.hpp"

/// Smoothing, transforms and quantisation on the device, for every variant; bit-equal to sage2::quantize.
namespace sage2::cuda {

/// Codes and scales of Q or K for all heads.
struct DeviceQkOperand {
  std::int64_t tokens = 0;    ///< padded to whole key tiles for K
  std::int64_t depth = 0;     ///< channels, padded to a multiple of 32
  DeviceBuffer<float> codes;  ///< [heads, tokens, depth], zeros in the padding
  DeviceBuffer<float> scale;  ///< [heads, tokens], 0 in the padding
};

/// Columns of V that share a format; which ones may differ from head to head (v_outliers=split).
struct DeviceVOperand {
  Format format = Format::exact;
  std::int64_t tokens = 0;               ///< padded to whole key tiles
  std::int64_t count = 0;                ///< channels
  std::int64_t scale_rows = 1;           ///< 1, or the number of key tiles with v_gran=per_block
  DeviceBuffer<std::uint32_t> channels;  ///< [kv heads, count]: which columns of V and of the output
  DeviceBuffer<float> codes;             ///< [kv heads, tokens, count]
  DeviceBuffer<float> scale;             ///< [kv heads, scale_rows, count]
};

struct DeviceOperands {
  DeviceQkOperand q, k;
  DeviceBuffer<float> delta_s;    ///< smooth Q: [q heads, blocks of 128 rows, padded kv_len]; else empty
  std::vector<DeviceVOperand> v;  ///< one part, and a second for the outlier channels of v_outliers=split
  DeviceBuffer<float> v_mean;     ///< [kv heads, channels], empty without smooth V
  /// Codes clamped to their format's range, as they add up in the CPU's records: for each query head those of its own
  /// Q and those of its K and V. [q heads], device memory.
  DeviceBuffer<std::uint64_t> saturated;
};

/// Quantises all heads: FP16, BF16 or FP32 input, any strides, any length. Does not wait for the stream.
[[nodiscard]] DeviceOperands quantize(const DeviceProblem& problem, const Variant& variant, cudaStream_t stream);

}  // namespace sage2::cuda
