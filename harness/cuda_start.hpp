#pragma once

#include <future>
#include <vector>

#include "kernels/device_info.hpp"

/// Starting the GPUs takes a good part of a second: it happens in the background, while files are opened and read.
namespace sage2 {

/// A GPU with a context.
struct StartedDevice {
  cuda::DeviceInfo info;
  std::size_t free_memory = 0;  ///< bytes
};

class CudaStart {
 public:
  /// Begins at once.
  CudaStart();
  CudaStart(const CudaStart&) = delete;
  CudaStart& operator=(const CudaStart&) = delete;
  ~CudaStart();

  /// Which GPUs there are, or why there are none. Waits for the driver only.
  [[nodiscard]] const cuda::DeviceList& found();

  /// Waits until each has a context. Throws DeviceError where one fails.
  [[nodiscard]] const std::vector<StartedDevice>& started();

 private:
  std::vector<StartedDevice> start_all();

  std::promise<cuda::DeviceList> list_promise_;
  std::shared_future<cuda::DeviceList> list_;
  std::shared_future<std::vector<StartedDevice>> started_;
};

}  // namespace sage2
