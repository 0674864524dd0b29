#include "kernels/cuda_check.hpp"
#include "kernels/emulate_loop.hpp"
#include "kernels/row_tiles.cuh"

namespace sage2::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kRows = 128;  // of a block

__global__ void nonfinite_kernel(const float* codes, std::int64_t tokens, std::int32_t cols, bool per_column,
                                 std::uint32_t* first_bad) {
  const auto tile = row_tile(tokens, kRows);
  const int size = static_cast<int>(tile.last - tile.first) * cols;
  const float* const rows = codes + (tile.head * tokens + tile.first) * cols;
  for (int e = static_cast<int>(threadIdx.x); e < size; e += kThreads) {
    if (isfinite(rows[e])) continue;
    const std::int64_t at = per_column ? tile.head * cols + e % cols : tile.head;
    atomicMin(first_bad + at, static_cast<std::uint32_t>(tile.first + e / cols));
  }
}

}  // namespace

void find_nonfinite(const float* codes, std::int64_t heads, std::int64_t tokens, std::int32_t cols, bool per_column,
                    std::uint32_t* first_bad, cudaStream_t stream) {
  nonfinite_kernel<<<row_tiles(heads, tokens, kRows), kThreads, 0, stream>>>(codes, tokens, cols, per_column,
                                                                             first_bad);
  SAGE2_CUDA_CHECK_LAUNCH(nonfinite_kernel);
}

}  // namespace sage2::cuda
