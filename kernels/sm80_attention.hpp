#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/device_problem.hpp"
#include "kernels/emulate.hpp"
#include "kernels/quantize.hpp"
#include "reference/variant.hpp"

/// Attention on the tensor cores of Ampere (and every later chip): Q and K in INT8 or INT4, P and V in FP16, geometry
/// 128x64w32.
namespace sage2::cuda {

/// Whether the kernel computes a variant; its `arch` is not looked at. On Hopper its FP16 products are summed as
/// arch=hopper says.
[[nodiscard]] bool sm80_supports(const Variant& variant, std::int64_t head_dim);

/// Attention of all heads, from the generic quantiser's operands. o: [q_count, q_len, head_dim] FP32, rounded where the
/// variant says so, in device memory. counts: [q_count] in device memory, added to (saturated: codes of P only), or
/// null. Rows that see no key give zeros. Throws std::logic_error where sm80_supports says no.
void sm80_attention(const DeviceProblem& problem, const Variant& variant, const DeviceOperands& operands, float* o,
                    LoopCounts* counts, cudaStream_t stream);

}  // namespace sage2::cuda
