#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

/// CUDA's return codes as exceptions.
namespace sage2::cuda {

/// Throws DeviceError, naming what was being done, where, and what CUDA said.
void check(cudaError_t status, const char* what, const char* file, int line);

/// What a failed allocation says: how much was needed and how much was free. Throws DeviceError.
[[noreturn]] void out_of_memory(std::size_t bytes);

}  // namespace sage2::cuda

#define SAGE2_CUDA_CHECK(call) ::sage2::cuda::check((call), #call, __FILE__, __LINE__)
/// After a launch: a bad configuration shows here, a fault in the kernel at the next synchronising call.
#define SAGE2_CUDA_CHECK_LAUNCH(kernel) \
  ::sage2::cuda::check(cudaGetLastError(), "launch of " #kernel, __FILE__, __LINE__)
