#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "reference/host_device.hpp"
#include "reference/variant.hpp"

/// Rounding to the number formats of the tensor cores, as FP32 to FP32 functions that a compiler can vectorise.
/// All round to nearest even. Tested over all codes and all ties against independent implementations.
namespace sage2 {

inline constexpr float kE4m3Max = 448.0F;
inline constexpr float kE5m2Max = 57344.0F;
inline constexpr float kFp16Max = 65504.0F;

namespace detail {

/// 2^e of a finite number's leading bit, at least 2^min_exp; the sign is dropped.
template <int MinExp>
[[nodiscard]] SAGE2_HOST_DEVICE inline float binade(float x) {
  const float power = std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & 0x7F800000U);
  constexpr float kLeast = std::bit_cast<float>(static_cast<std::uint32_t>(MinExp + 127) << 23U);
  return power > kLeast ? power : kLeast;
}

/// Rounds to `Mantissa` fraction bits, to a fixed step below 2^MinExp. Adding 1.5 x 2^(23 - Mantissa) binades pushes
/// the unwanted bits out of the FP32 significand, where the hardware rounds them to nearest even; subtracting it again
/// is exact.
template <int Mantissa, int MinExp>
[[nodiscard]] SAGE2_HOST_DEVICE inline float round_to_fraction(float x) {
  constexpr float kPush = 1.5F * static_cast<float>(1U << (23 - Mantissa));
  const float magic = binade<MinExp>(x) * kPush;
  return (x + magic) - magic;
}

template <int Mantissa, int MinExp>
[[nodiscard]] SAGE2_HOST_DEVICE inline float round_saturating(float x, float max) {
  // Comparisons are written so that NaN passes through.
  const float clamped = x > max ? max : (x < -max ? -max : x);
  return round_to_fraction<Mantissa, MinExp>(clamped);
}

}  // namespace detail

/// E4M3 with saturation, as cvt.rn.satfinite.e4m3x2.f32: subnormal step 2^-9, anything beyond 448 becomes 448.
/// Clamping before rounding gives the same values as after, since 448 is representable. NaN stays NaN.
[[nodiscard]] SAGE2_HOST_DEVICE inline float round_e4m3(float x) {
  return detail::round_saturating<3, -6>(x, kE4m3Max);
}

/// E5M2 with saturation at 57344; subnormal step 2^-16.
[[nodiscard]] SAGE2_HOST_DEVICE inline float round_e5m2(float x) {
  return detail::round_saturating<2, -14>(x, kE5m2Max);
}

/// IEEE binary16; from 65520 up becomes infinity.
[[nodiscard]] SAGE2_HOST_DEVICE inline float round_fp16(float x) {
  const float ax = std::fabs(x);
  const float r = detail::round_to_fraction<10, -14>(x);
  const float inf = std::copysign(std::numeric_limits<float>::infinity(), x);
  // NaN fails the comparison and is carried by r.
  return ax >= 65520.0F ? inf : r;
}

/// bfloat16: the upper half of an FP32 number; overflows to infinity as FP32 would.
[[nodiscard]] SAGE2_HOST_DEVICE inline float round_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16U) & 1U)) & 0xFFFF0000U;
  // A NaN must not be carried into infinity.
  return std::bit_cast<float>((bits & 0x7FFFFFFFU) > 0x7F800000U ? bits : rounded);
}

/// Nearest integer, ties to even, for |x| < 2^22.
[[nodiscard]] SAGE2_HOST_DEVICE inline float round_half_even(float x) {
  constexpr float kMagic = 12582912.0F;  // 1.5 x 2^23
  return (x + kMagic) - kMagic;
}

/// Nearest integer, ties away from zero, as the official Triton quantiser: truncates x + 0.5 sign(x).
[[nodiscard]] SAGE2_HOST_DEVICE inline float round_half_away(float x) {
  return std::trunc(x + std::copysign(0.5F, x));
}

/// Largest code of an n-bit integer format: 2^(n-1) - 1, so that codes are symmetric.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr float integer_top(Format f) {
  return static_cast<float>((1U << (bits_of(f) - 1U)) - 1U);
}

/// Largest magnitude that a scaled format holds: what the largest element of a scale group is mapped to.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr float format_top(Format f) {
  return f == Format::e4m3 ? kE4m3Max : (f == Format::e5m2 ? kE5m2Max : integer_top(f));
}

/// Rounds to an unscaled or FP8 format; `exact` leaves the FP32 value. Integers have their own rounding above.
[[nodiscard]] SAGE2_HOST_DEVICE inline float round_to(Format f, float x) {
  switch (f) {
    case Format::e4m3:
      return round_e4m3(x);
    case Format::e5m2:
      return round_e5m2(x);
    case Format::fp16:
      return round_fp16(x);
    case Format::bf16:
      return round_bf16(x);
    default:
      return x;
  }
}

}  // namespace sage2
