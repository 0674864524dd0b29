#pragma once

#include <cstddef>
#include <vector>

#include "datasets/capture.hpp"
#include "harness/outcome.hpp"

/// How a cell is cut so that each part fits in a device's memory.
namespace sage2 {

/// Query heads that share a key/value head.
struct HeadGroup {
  std::size_t batch = 0, kv_head = 0;
  std::vector<std::size_t> q_heads;
};

/// Heads that are evaluated at once: every group has equally many query heads.
struct Chunk {
  std::vector<HeadGroup> groups;
  std::size_t first_row = 0, rows = 0;  ///< of the rows evaluated of each head
  [[nodiscard]] std::size_t q_count() const { return groups.size() * groups.front().q_heads.size(); }
};

/// Device memory that a chunk takes.
struct ChunkBytes {
  std::size_t resident = 0;          ///< Q, K, V and the FP64 reference
  std::vector<std::size_t> scratch;  ///< each variant's codes, scales and output
  [[nodiscard]] std::size_t peak() const;
};

/// `tensor_cores`: whether each variant runs on them, which compute all rows whatever rows are wanted.
[[nodiscard]] ChunkBytes chunk_bytes(const CellInfo& cell, const Chunk& chunk, std::size_t rows_of_head,
                                     const std::vector<NamedVariant>& variants, const std::vector<bool>& tensor_cores);

/// Cuts the selected heads (ascending) of all batch entries into as few chunks as fit in `budget` bytes each, about
/// equally large: by key/value heads, then by query heads that share one, then by query rows. Nothing is cut finer than
/// 1024 rows of one head, even where that does not fit: the device will say how much it lacked.
[[nodiscard]] std::vector<Chunk> plan_chunks(const CellInfo& cell, const std::vector<std::size_t>& heads,
                                             std::size_t rows_of_head, const std::vector<NamedVariant>& variants,
                                             const std::vector<bool>& tensor_cores, std::size_t budget);

}  // namespace sage2
