#pragma once

#include <cstddef>
#include <string>
#include <vector>

/// The GPUs of this machine.
namespace sage2::cuda {

struct DeviceInfo {
  int index = 0;
  std::string name;
  int major = 0, minor = 0;  ///< compute capability
  int multiprocessors = 0;
  std::size_t memory = 0;  ///< bytes
  std::string driver;      ///< CUDA version of the driver, as "13.0"
};

/// Least compute capability that the kernels run on.
inline constexpr int kLeastMajor = 8;

/// GPUs that the engine runs on, or why there are none, in one sentence: no driver, no GPU, or chips too old.
struct DeviceList {
  std::vector<DeviceInfo> devices;
  std::string why_none;
};
/// Never throws for a machine without GPU or driver. The environment's CUDA_VISIBLE_DEVICES is respected.
[[nodiscard]] DeviceList find_devices();

}  // namespace sage2::cuda
