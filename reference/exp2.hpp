#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "reference/host_device.hpp"

namespace sage2 {

/// 2^x in FP32 for x <= 127, the one function that both engines use for P and for the rescaling of the running sums.
///
/// The hardware's ex2.approx has no public bit-exact model, so the accuracy path uses this polynomial instead, built
/// from operations that round alike everywhere (add, multiply, fma): the same bits on every CPU and GPU. x is split
/// into an integer and a fraction in [-0.5, 0.5]; the minimax polynomial of degree 6 has a relative error of 2e-9
/// before rounding, and the whole function at most 1 ulp (tests/reference runs over every fraction). Results below
/// 2^-126 become 0, as with ex2.approx.ftz. NaN gives NaN, -infinity gives 0.
[[nodiscard]] SAGE2_HOST_DEVICE inline float exp2_shared(float x) {
  constexpr float kMagic = 12582912.0F;  // 1.5 x 2^23: adding it leaves the nearest integer in the low bits
  const float shifted = x + kMagic;
  const float f = x - (shifted - kMagic);
  float p = 1.535336192228752e-4F;
  p = std::fma(p, f, 1.3398874414635373e-3F);
  p = std::fma(p, f, 9.618437357638e-3F);
  p = std::fma(p, f, 5.5503324711245014e-2F);
  p = std::fma(p, f, 2.4022647913629006e-1F);
  p = std::fma(p, f, 6.931472028550671e-1F);
  p = std::fma(p, f, 1.0F);
  // The low bits of `shifted` are the integer part; shifted into place they add to the exponent.
  const auto exponent = std::bit_cast<std::uint32_t>(shifted) << 23U;
  const float scaled = std::bit_cast<float>(std::bit_cast<std::uint32_t>(p) + exponent);
  return x < -126.0F ? 0.0F : (x == x ? scaled : x);
}

}  // namespace sage2
