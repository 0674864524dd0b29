#pragma once

#include <cuda_runtime_api.h>

#include "kernels/device_problem.hpp"
#include "kernels/emulate.hpp"
#include "kernels/quantize.hpp"
#include "reference/variant.hpp"

/// Variants on Hopper's tensor cores, to the last bit.
namespace sage2::cuda::sm90 {

/// Whether Hopper's tensor cores can compute this variant: scores of integers (up to 8 bits, smooth Q or not) or of
/// E4M3 in the tensor core's accumulator (no smooth Q), E4M3 P and V, head dims up to 256, with key tiles of 128 and
/// pv_accum fp32 or fp32+fp32. And, with key tiles of 64, integers and head dims up to 128, also pv_accum fp32+fp16,
/// and all three as arch=ada: two instructions with half of P zero sum as Ada's one does. With key tiles
/// of 128 a scale a key (per_token) is emulated; a scale a tile of V and channels kept apart always are.
[[nodiscard]] bool supports(const Variant& variant, std::int64_t head_dim);

/// Attention from the generic quantiser's codes, with the kernels whose exp2 is the emulation's. o: [q_count, q_len,
/// head_dim] FP32, not yet rounded to variant.o; counts: [q_count], added to, or null. Device memory.
void attend(const DeviceProblem& problem, const Variant& variant, const DeviceOperands& operands, float* o,
            LoopCounts* counts, cudaStream_t stream);

}  // namespace sage2::cuda::sm90
