#pragma once

#include <cuda_runtime_api.h>

#include "kernels/device_problem.hpp"

/// The FP64 reference on the device.
namespace sage2::cuda {

/// The same function as sage2::exact_attention, for all heads at once, on FP64 tensor cores. o: [q_count, rows,
/// v.channels] and lse: [q_count, rows] (or null) in device memory, rows being those selected. Memory beyond the output
/// does not grow with the lengths. Rows that see no key have o = 0 and lse = -infinity. Head dims up to 256.
void exact_attention(const DeviceProblem& problem, const RowSelection& rows, double* o, double* lse,
                     cudaStream_t stream);

}  // namespace sage2::cuda
