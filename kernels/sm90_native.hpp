#pragma once

#include <cuda_runtime_api.h>

#include "kernels/device_problem.hpp"
#include "kernels/emulate.hpp"
#include "kernels/quantize.hpp"
#include "reference/variant.hpp"

/// Variants on Hopper's tensor cores, to the last bit.
namespace sage2::cuda::sm90 {

/// Whether Hopper's instructions compute this variant: integer QK (up to 8 bits, smooth Q or not) or E4M3 QK in the
/// tensor core's accumulator (no smooth Q), E4M3 P and V with pv_accum fp32 or fp32+fp32, key tiles of 128, head dims
/// up to 256. A scale a key (per_token), a scale a tile of V and channels kept apart are emulated.
[[nodiscard]] bool supports(const Variant& variant, std::int64_t head_dim);

/// Attention from the generic quantiser's codes, with the kernels whose exp2 is the emulation's. o: [q_count, q_len,
/// head_dim] FP32, not yet rounded to variant.o; counts: [q_count], added to, or null. Device memory.
void attend(const DeviceProblem& problem, const Variant& variant, const DeviceOperands& operands, float* o,
            LoopCounts* counts, cudaStream_t stream);

}  // namespace sage2::cuda::sm90
