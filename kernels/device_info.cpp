#include "kernels/device_info.hpp"

#include <cuda_runtime_api.h>

#include "fmt/format.h"

namespace sage2::cuda {

DeviceList find_devices() {
  DeviceList list;
  int count = 0;
  if (const auto status = cudaGetDeviceCount(&count); status != cudaSuccess || count == 0) {
    (void)cudaGetLastError();
    int driver = 0;
    (void)cudaDriverGetVersion(&driver);
    if (status == cudaErrorInsufficientDriver && driver == 0) {
      list.why_none = "no GPU: there is no NVIDIA driver";
    } else if (status == cudaErrorInsufficientDriver) {
      list.why_none = fmt::format("no GPU: the NVIDIA driver is too old (CUDA {}.{}; this build needs {}.{})",
                                  driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    } else if (status == cudaSuccess || status == cudaErrorNoDevice) {
      list.why_none = "no GPU is visible";
    } else {
      list.why_none = fmt::format("no usable GPU: {}", cudaGetErrorString(status));
    }
    return list;
  }
  int driver = 0;
  (void)cudaDriverGetVersion(&driver);
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p{};
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess) {
      (void)cudaGetLastError();
      continue;
    }
    if (p.major < kLeastMajor) {
      list.why_none = fmt::format("{} has compute capability {}.{}; the kernels need {}.0 (Ampere) or newer", p.name,
                                  p.major, p.minor, kLeastMajor);
      continue;
    }
    list.devices.push_back({i, p.name, p.major, p.minor, p.multiProcessorCount, p.totalGlobalMem,
                            fmt::format("{}.{}", driver / 1000, driver % 1000 / 10)});
  }
  return list;
}

}  // namespace sage2::cuda
