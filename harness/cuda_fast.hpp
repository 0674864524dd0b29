#pragma once

#include <cuda_runtime_api.h>

#include <optional>
#include <vector>

#include "harness/cuda_heads.hpp"

/// Attention as libsage2 computes it: the fused preparation and the fast kernel.
namespace sage2 {

/// [q_count, q_len, head_dim]; nothing where the device or the variant has no fast kernel or the tensors are not of one
/// 16-bit format. Waits for the stream.
[[nodiscard]] std::optional<std::vector<float>> attend_fast(const DeviceHeads& heads, const Variant& variant, int major,
                                                            cudaStream_t stream);

}  // namespace sage2
