#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/device_problem.hpp"
#include "kernels/emulate.hpp"
#include "kernels/quantize.hpp"
#include "reference/variant.hpp"

/// Attention on the tensor cores of Ada: Q and K in INT8 or INT4, P and V in E4M3, geometry 128x64w32.
namespace sage2::cuda {

/// Whether the kernel computes a variant; its `arch` is not looked at. On Hopper the compiler puts FP8 products
/// together from FP16 ones (docs/kernels.md), so results agree with no arch.
[[nodiscard]] bool sm89_supports(const Variant& variant, std::int64_t head_dim);

/// Attention of all heads, from the generic quantiser's operands. o: [q_count, q_len, head_dim] FP32, rounded where the
/// variant says so, in device memory. counts: [q_count] in device memory, added to (saturated: codes of P only), or
/// null. Rows that see no key give zeros. Throws std::logic_error where sm89_supports says no.
void sm89_attention(const DeviceProblem& problem, const Variant& variant, const DeviceOperands& operands, float* o,
                    LoopCounts* counts, cudaStream_t stream);

}  // namespace sage2::cuda
