#pragma once

#include <cstddef>
#include <cstdint>

#include "reference/accumulator.hpp"

/// Products of small panels, the inner loops of the emulation. The rows of A are the lanes of vector registers: 32
/// queries side by side, so that everything a kernel does per row (maximum, exponential, rounding, accumulation) is
/// the same instruction for all of them, and sums over k run in the kernel's order without any horizontal step.
namespace sage2 {

/// Queries processed together.
inline constexpr std::size_t kStrip = 32;

/// B operand: element (k, n) is data[k * stride_k + n * stride_n].
template <class T>
struct PanelView {
  const T* data;
  std::size_t stride_k;
  std::size_t stride_n;
};

/// c[n][r] = sum_k a[k][r] b(k, n) in FP32, for operands whose products and sums are exact there (integer codes with
/// sums below 2^24); the order of the sum then does not matter. a: [depth][kStrip], c: [n][kStrip], 64-byte aligned.
void multiply_exact_int(std::size_t depth, std::size_t n, const float* a, PanelView<float> b, float* c);

/// c[n][r] += sum_k a[k][r] b(k, n) in FP64, for operands whose products are exact there (FP32 values).
void multiply_fp64(std::size_t depth, std::size_t n, const double* a, PanelView<double> b, double* c);

/// c[n][r] is carried through a tensor core's accumulator over k, group by group. Exponents of the operands ride along
/// as bytes (`kZeroExponent` for zero), so that their maxima take one byte a lane. depth: a multiple of model.group.
/// For operands of at most 11 significant bits whose exponents lie in -30 .. 30: FP8 and FP16.
void accumulate_narrow(const AccumulatorModel& model, std::size_t depth, std::size_t n, const float* a,
                       const std::int8_t* a_exponent, PanelView<float> b, PanelView<std::int8_t> b_exponent, float* c);

/// The same for any FP32 operands (bfloat16, exact), in FP64 and with plain loops.
void accumulate_wide(const AccumulatorModel& model, std::size_t depth, std::size_t n, const float* a,
                     PanelView<float> b, float* c);

/// Marks a zero operand: any sum with it stays below every sum of two real exponents, and within a byte.
inline constexpr std::int8_t kZeroExponent = -64;

/// Exponents of `count` operands as accumulate_narrow wants them; `least` is least_exponent of their format.
void operand_exponents(const float* values, std::size_t count, int least, std::int8_t* exponents);

}  // namespace sage2
