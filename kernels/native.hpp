#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/device_problem.hpp"
#include "kernels/emulate.hpp"
#include "reference/variant.hpp"

/// Variants on the tensor cores of the chip at hand.
namespace sage2::cuda {

/// What computes a variant on a chip.
enum class Route : std::uint8_t {
  cuda_cores,  ///< nothing better: `emulate`
  borrowed,    ///< the chip's tensor cores, made to sum as those of the variant's `arch` do
  native,      ///< the tensor cores that the variant means
};

/// The best way on a chip of this compute capability. All ways give the same bits.
[[nodiscard]] Route route_on(const Variant& variant, std::int64_t head_dim, int major, int minor);

/// Quantises and attends on tensor cores. o: [q_count, q_len, head_dim] FP32 (rounded where the variant says so), in
/// device memory. counts: [q_count] as for emulate, but with codes of Q, K and V in `saturated` too; may be null.
/// Throws std::logic_error where route_on says cuda_cores.
void attend_on_tensor_cores(const DeviceProblem& problem, const Variant& variant, float* o, LoopCounts* counts,
                            cudaStream_t stream);

}  // namespace sage2::cuda
