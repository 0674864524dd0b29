#pragma once

#include <cuda_runtime_api.h>

#include "kernels/device_problem.hpp"
#include "kernels/sm90_tiles.hpp"
#include "reference/variant.hpp"

/// Launching the Hopper attention kernel.
namespace sage2::cuda::sm90 {

/// Which of the compiled kernels.
struct KernelChoice {
  bool e4m3_codes = false;  ///< codes of Q and K as E4M3 numbers instead of INT8
  bool smooth_q = false;
  PvAccum pv_accum = PvAccum::fp32_fp32;
  bool accurate = false;  ///< exp2 by the polynomial that the emulation uses, events counted; otherwise ex2.approx
  int keys = kTileKeys;   ///< of a softmax step: 128, or 64 as in Ada's geometry (params.group says what is summed)
};

/// Sizes, mask, scales and the order of work of a problem, and a contiguous output's strides.
void set_shape(AttentionParams& params, const DeviceProblem& problem);

/// Enqueues the kernel. params.next_tile must point to a zero. Throws std::invalid_argument where no kernel is compiled
/// for the choice (fast kernels are two-level; accurate ones take INT8 codes, or E4M3 without smooth Q; those of 64-key
/// steps INT8 codes, head dims up to 128 and all codes of V).
void attention(const AttentionParams& params, const KernelChoice& choice, cudaStream_t stream);

/// Whether `attention` has a kernel for it, at least up to head dim 128.
[[nodiscard]] bool compiled(const KernelChoice& choice);

}  // namespace sage2::cuda::sm90
