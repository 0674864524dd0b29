#pragma once

#include <cuda_runtime_api.h>

#include "kernels/device_problem.hpp"
#include "kernels/sm90_tiles.hpp"

/// Launching the Hopper attention kernel.
namespace sage2::cuda::sm90 {

/// Which of the compiled kernels.
struct KernelChoice {
  bool e4m3_codes = false;  ///< codes of Q and K as E4M3 numbers instead of INT8
  bool smooth_q = false;
  bool two_level = true;  ///< pv_accum fp32+fp32; otherwise fp32
  bool accurate = false;  ///< exp2 by the polynomial that the emulation uses, events counted; otherwise ex2.approx
};

/// Sizes, mask, scales and the order of work of a problem, and a contiguous output's strides.
void set_shape(AttentionParams& params, const DeviceProblem& problem);

/// Enqueues the kernel. params.next_tile must point to a zero. Throws std::invalid_argument where no kernel is compiled
/// for the choice (fast kernels are two-level; accurate ones take INT8 codes, or E4M3 without smooth Q).
void attention(const AttentionParams& params, const KernelChoice& choice, cudaStream_t stream);

/// Whether `attention` has a kernel for it.
[[nodiscard]] bool compiled(const KernelChoice& choice);

}  // namespace sage2::cuda::sm90
