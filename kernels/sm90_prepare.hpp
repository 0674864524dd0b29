#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/device_problem.hpp"
#include "kernels/sm90_tiles.hpp"
#include "reference/variant.hpp"

/// From Q, K and V in FP16 or BF16 to the tiles of the Hopper kernel: means, smoothing, scales, codes, dS and the
/// transposition of V in one launch. Codes of Q and most of V's the attention kernel makes itself, as a rule.
namespace sage2::cuda::sm90 {

/// Who makes codes of Q, and of V. Left to choose, whoever is faster (measured, docs/performance-gpu.md).
enum class Codes : std::uint8_t {
  chosen,
  prepared,
  by_attention,  ///< of V where the kernel can (makes_values, codes of Q made there, too), but for the first heads
};

/// What is prepared. Codes and scales have the bits of sage2::quantize, but a zero of V may have the other sign, and
/// with smooth Q means of Q are off by about 2^-23 of the largest number (ColumnSums), and scales and codes of Q
/// follow. (K's mean is summed in FP64, four rows in FP32 before, and rounded to 16 bits.) dS is summed in FP32 by
/// tensor cores from Q's means, split into two 16-bit halves (relative error about 2^-16 for BF16, 2^-21 for FP16, of
/// the unsmoothed sum); with smooth K too it is relative to that of one key, reference_key (sm90_jobs.hpp), which
/// changes a row by a constant.
struct PrepareOptions {
  Format qk = Format::int8;          ///< int8 or int4
  QkGran gran = QkGran::per_thread;  ///< per_block (64 query rows), per_warp (16) or per_thread
  bool smooth_q = false, smooth_k = true, smooth_v = false;
  bool e4m3_codes = false;  ///< write the codes of Q and K as E4M3 numbers, which hold -16 .. 16 exactly
  Codes q_codes = Codes::chosen;
  Codes v_codes = Codes::chosen;
};

/// Of a workspace and its parts: the kernels address tiles by their low bits.
inline constexpr std::size_t kWorkspaceAlignment = 1024;

/// The first aligned byte of memory that is kWorkspaceAlignment larger than a workspace.
[[nodiscard]] inline void* align_workspace(void* memory) {
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  return static_cast<std::byte*>(memory) +
         ((kWorkspaceAlignment - address % kWorkspaceAlignment) % kWorkspaceAlignment);
}

/// Where the parts of a workspace begin, in bytes.
struct Workspace {
  std::size_t progress, progress_bytes;  ///< counters: zeroed before each launch
  std::size_t q, k, v, q_scale, k_scale, v_scale, v_mean, delta_s;
  std::size_t k_mean, k_sums, v_partial, q_mean, q_block_mean;
  std::size_t lse_shift;
  std::size_t bytes;
};

/// Lays out a workspace for a problem of this shape.
[[nodiscard]] Workspace plan_workspace(const DeviceProblem& problem, const PrepareOptions& options, bool with_lse);

/// Fills a workspace (device memory; throws std::invalid_argument where it is not aligned). FP16 or BF16 tensors of any
/// strides. Enqueues a memset and one kernel (a second one for lse_shift where that is wanted); may be captured into a
/// graph.
void prepare(const DeviceProblem& problem, const PrepareOptions& options, const Workspace& at, void* workspace,
             bool with_lse, cudaStream_t stream);

/// Parameters of the attention kernel that point into a prepared workspace. The output is left to the caller.
[[nodiscard]] AttentionParams attention_params(const DeviceProblem& problem, const PrepareOptions& options,
                                               const Workspace& at, void* workspace, bool with_lse);

}  // namespace sage2::cuda::sm90
