#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "kernels/accumulator_words.hpp"
#include "reference/host_device.hpp"

/// Parts of the accumulator probe. Tiles of random words are written, multiplied by an instruction, and judged by the
/// model, each by a kernel of its own, so that the instructions under test stand alone.
namespace sage2::cuda::probe {

inline constexpr int kRows = 64, kCols = 64;  ///< of C: a warpgroup's tile, or that of four warps
inline constexpr int kBytes = 32;             ///< of one row of A or column of B: 32 FP8 or 16 FP16 words
inline constexpr int kThreads = 128;

/// A and B as the tensor cores read them from shared memory without swizzle: blocks of 8 rows by 16 bytes.
SAGE2_HOST_DEVICE constexpr int byte_at(int row, int byte) {
  return row / 8 * 256 + byte / 16 * 128 + row % 8 * 16 + byte % 16;
}

struct Tile {
  std::uint8_t a[kRows * kBytes];
  std::uint8_t b[kCols * kBytes];
};
/// FP32 bits, or FP16 bits in the low half.
struct Sums {
  std::uint32_t c[kRows * kCols];
};

/// One instruction: multiplies `tiles` tiles, d = c + a b.
struct Instruction {
  const char* name;
  WordFormat a, b;
  bool half;
  void (*run)(const Tile* tiles, const Sums* c, Sums* d, int count, cudaStream_t stream);
};
/// mma.sync of the chip; FP8 from 8.9 on.
[[nodiscard]] std::span<const Instruction> mma_instructions();
[[nodiscard]] std::span<const Instruction> fp8_mma_instructions();
/// wgmma: Hopper only.
[[nodiscard]] std::span<const Instruction> wgmma_instructions();

struct Mismatch {
  std::uint32_t c, hardware, model;
  std::uint16_t a[32], b[32];
};
inline constexpr int kKept = 4;
/// What one kind's comparisons found, in device memory.
struct Findings {
  unsigned long long mismatches;
  unsigned int kept;
  Mismatch first[kKept];
};

/// Fills tiles with words of these formats and C, chained to `previous` (the last results) where a tile's style says so
/// and `previous` is not null.
void fill_tiles(Tile* tiles, Sums* c, const Sums* previous, int count, const Instruction& what, const WordModel& model,
                std::uint64_t seed, cudaStream_t stream);
void judge(const Tile* tiles, const Sums* c, const Sums* d, int count, const Instruction& what, const WordModel& model,
           Findings* findings, cudaStream_t stream);

}  // namespace sage2::cuda::probe
