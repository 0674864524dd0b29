#pragma once

#include <cstdint>
#include <span>

#include "datasets/problem.hpp"
#include "reference/variant.hpp"

/// The emulation: attention as the kernel computes it, step for step, on a CPU (docs/numerics.md).
namespace sage2 {

struct EmulatedOutput {
  Matrix o;                       ///< [rows, head_dim]
  std::uint64_t p_underflow = 0;  ///< visible entries of P that rounded to zero
  std::uint64_t p_total = 0;      ///< visible entries of P
  std::uint64_t saturated = 0;    ///< codes of Q, K, V and P clamped to their format's range
};

/// Attention of one head by a variant. `rows`: the query rows wanted, in any order; empty for all. Scales and means
/// come from the whole head in either case. Memory grows with the sequence, not with its square; all cores are used.
/// Rows that see no key give zeros.
[[nodiscard]] EmulatedOutput emulate(const HeadProblem& problem, const Variant& variant,
                                     std::span<const std::uint32_t> rows = {});

/// What is added to the running maximum so that P fills its format: P = exp2(s - m + offset). For E4M3 log2(448)
/// rounded down, as in the official kernels; the factor cancels against the denominator.
[[nodiscard]] float p_offset(const Variant& variant);

}  // namespace sage2
