#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/device_buffer.hpp"
#include "kernels/quantize.hpp"
#include "reference/variant.hpp"

/// Operands of the mma.sync kernels: the generic quantiser's codes, packed into the formats of the instructions.
namespace sage2::cuda {

inline constexpr int kMmaQueryTile = 128, kMmaKeyTile = 64;

struct MmaOperands {
  std::int64_t q_rows = 0, kv_rows = 0;  ///< lengths padded to whole tiles
  DeviceBuffer<std::uint8_t> q;          ///< [q heads, q_rows, dim] INT8, or two INT4 a byte; zeros in the padding
  DeviceBuffer<std::uint8_t> k;          ///< [kv heads, kv_rows, dim] likewise
  /// FP16: [kv heads, kv_rows, dim]. E4M3: [kv heads, key tiles, dim, 64], transposed within each key tile, and the
  /// keys of every 16 in the order in which a lane of the P fragment holds them: byte 4t + i is key 2t + i for i < 2,
  /// and 8 + 2t + i - 2 otherwise. A group of products holds all of the 16, so no sum changes.
  DeviceBuffer<std::uint8_t> v;
};

/// Packs for a kernel of `dim` channels, at least as many as the operands have. `int4`: codes of Q and K fit 4 bits.
[[nodiscard]] MmaOperands pack_mma_operands(const DeviceOperands& operands, std::int64_t q_heads, std::int64_t kv_heads,
                                            std::int64_t dim, bool int4, Format v, cudaStream_t stream);

/// Rounds an output as the variant stores it, in place.
void round_output(float* o, std::int64_t count, OutFormat format, cudaStream_t stream);

}  // namespace sage2::cuda
