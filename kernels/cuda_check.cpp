#include "kernels/cuda_check.hpp"

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2::cuda {

void check(cudaError_t status, const char* what, const char* file, int line) {
  if (status == cudaSuccess) return;
  throw DeviceError(fmt::format("CUDA: {} ({}) in {}, {}:{}", cudaGetErrorString(status), cudaGetErrorName(status),
                                what, file, line));
}

void out_of_memory(std::size_t bytes) {
  std::size_t free = 0;
  std::size_t total = 0;
  (void)cudaGetLastError();  // the failed allocation is not an error of what comes next
  (void)cudaMemGetInfo(&free, &total);
  constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
  throw DeviceError(fmt::format("the GPU is out of memory: {:.2f} GiB were needed, {:.2f} of {:.2f} GiB are free",
                                static_cast<double>(bytes) / kGiB, static_cast<double>(free) / kGiB,
                                static_cast<double>(total) / kGiB));
}

}  // namespace sage2::cuda
