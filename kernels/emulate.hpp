#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/device_problem.hpp"
#include "kernels/quantize.hpp"
#include "reference/variant.hpp"

/// The emulation on CUDA cores: the arithmetic of sage2::emulate, bit for bit.
namespace sage2::cuda {

/// What the CPU's EmulatedOutput counts, for one head.
struct LoopCounts {
  unsigned long long p_underflow = 0, p_total = 0, saturated = 0;
};

/// Attention of all heads by a variant. o: [q_count, rows, head_dim] in device memory, rows being those selected.
/// counts: [q_count] in device memory, added to (saturated: codes of P only); null where nobody asks. Memory does not
/// grow with the lengths. Rows that see no key give zeros.
void emulate(const DeviceProblem& problem, const Variant& variant, const DeviceOperands& operands,
             const RowSelection& rows, float* o, LoopCounts* counts, cudaStream_t stream);

}  // namespace sage2::cuda
