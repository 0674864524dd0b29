#pragma once

#include <cstddef>
#include <span>

#include "reference/variant.hpp"

/// How tensor cores sum products: the bit-exact model that public studies agree on (MMA-Sim, arXiv 2511.10909; Hawkeye,
/// arXiv 2603.20421), checked on the hardware by kernels/accumulator_probe.hpp. See docs/numerics.md.
namespace sage2 {

/// For each group of products, in ascending k: E is the largest exponent of C and of the products (a product's exponent
/// is the sum of its operands', not renormalised); every term is truncated toward zero to `fraction` bits below E; the
/// exact sum of the truncated terms is renormalised and truncated toward zero to `out_fraction` bits. A half
/// accumulator rounds to FP16, to nearest even, instead. A subnormal C has its format's least exponent.
struct AccumulatorModel {
  int group;
  int fraction;
  int out_fraction;
  bool half;
  auto operator<=>(const AccumulatorModel&) const = default;
};

/// E is at least this with an FP32 accumulator, as only products of BF16 show (measured on Hopper).
inline constexpr int kLeastSumExponent = -133;

/// The accumulator of an architecture for operands of these formats (floats only). An exact operand is treated as the
/// other one's format; two of them as FP8, or as FP16 on Ampere, which has no FP8.
[[nodiscard]] AccumulatorModel accumulator_model(Arch arch, Format a, Format b, bool half);

/// Exponent with which an operand enters a product: of the leading bit, or the format's least for subnormals.
[[nodiscard]] int least_exponent(Format f);

/// The model in its plainest form, one group: C + sum a_i b_i. `least_a`, `least_b`: least_exponent of the operands.
/// Used as the oracle for the fast kernels, and for comparing with the hardware. a and b hold at most model.group
/// finite elements; C is a value of the accumulator's format.
[[nodiscard]] float accumulate_group(const AccumulatorModel& model, float c, std::span<const float> a, int least_a,
                                     std::span<const float> b, int least_b);

}  // namespace sage2
