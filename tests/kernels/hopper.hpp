#pragma once

#include <string>

#include "kernels/device_info.hpp"

namespace sage2::testing {

/// Why a test of the Hopper kernels cannot run here; "" where it can.
inline std::string no_hopper() {
  const auto list = cuda::find_devices();
  if (list.devices.empty()) return list.why_none;
  return list.devices.front().major == 9 ? "" : "the first GPU is not a Hopper chip";
}

}  // namespace sage2::testing
