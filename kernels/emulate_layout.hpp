#pragma once

#include <cstdint>

#include "kernels/emulate_loop.hpp"

/// How the loop is cut to the device's shared memory.
namespace sage2::cuda {

struct LoopFit {
  int rows;  ///< query rows of a block
  LoopLayout layout;
};

/// What a device gives its blocks.
struct SharedMemory {
  int multiprocessors;
  std::uint32_t of_block, of_multiprocessor;  ///< bytes
};

/// Everything but params.layout and params.row_blocks must be known. Throws DeviceError where the device has too little
/// shared memory.
[[nodiscard]] LoopFit fit_loop(const LoopParams& params, std::int64_t q_heads);
/// The same for a given device.
[[nodiscard]] LoopFit fit_loop(const LoopParams& params, std::int64_t q_heads, const SharedMemory& device);

}  // namespace sage2::cuda
