#pragma once

#include <cstdint>

/// Work on rows of many heads, cut into blocks of threads.
namespace sage2::cuda {

/// A block's share: rows [first, last) of a head.
struct RowTile {
  std::int64_t head, first, last;
};

/// Blocks that cover `heads` times `rows` rows, `size` rows each. A one-dimensional grid holds 2^31 of them.
inline unsigned row_tiles(std::int64_t heads, std::int64_t rows, std::int64_t size) {
  return static_cast<unsigned>(heads * ((rows + size - 1) / size));
}

__device__ inline RowTile row_tile(std::int64_t rows, std::int64_t size) {
  const std::int64_t per_head = (rows + size - 1) / size;
  const std::int64_t head = blockIdx.x / per_head;
  const std::int64_t first = (blockIdx.x - head * per_head) * size;
  return {head, first, first + size < rows ? first + size : rows};
}

}  // namespace sage2::cuda
