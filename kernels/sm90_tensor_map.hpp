#pragma once

#include <cuda.h>

#include "kernels/device_problem.hpp"

/// Descriptors of tensors for Hopper's copy engine.
namespace sage2::cuda::sm90 {

inline constexpr int kBoxChannels = 64;  ///< of one copy: a row of 128 bytes

/// Describes a tensor of 16-bit elements to the copy engine, in boxes of `rows` tokens and kBoxChannels channels of one
/// head. A box's 16-byte chunks are exchanged within 8 rows (the 128-byte swizzle); what lies beyond the last token or
/// channel becomes zeros. Coordinates: channel, token, head, batch entry. False where base, strides or rows are no
/// multiples of 16 bytes, strides are not positive, or the driver refuses: such a tensor must be read in another way.
[[nodiscard]] bool describe(const TensorView& tensor, int rows, CUtensorMap& map);

}  // namespace sage2::cuda::sm90
