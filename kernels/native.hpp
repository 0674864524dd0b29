#pragma once

#include <cuda_runtime_api.h>

#include "kernels/device_problem.hpp"
#include "kernels/emulate.hpp"
#include "reference/variant.hpp"

/// Variants on the tensor cores of the chip at hand.
namespace sage2::cuda {

/// Whether a chip of this compute capability has the instructions that a variant means, and a kernel for them here.
/// What has none is emulated.
[[nodiscard]] bool runs_natively(const Variant& variant, std::int64_t head_dim, int major, int minor);

/// Quantises and attends on tensor cores. o: [q_count, q_len, head_dim] FP32 (rounded where the variant says so), in
/// device memory. counts: [q_count] as for emulate, but with codes of Q, K and V in `saturated` too; may be null.
/// Throws std::logic_error where runs_natively says no.
void attend_natively(const DeviceProblem& problem, const Variant& variant, float* o, LoopCounts* counts,
                     cudaStream_t stream);

}  // namespace sage2::cuda
