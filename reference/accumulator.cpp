#include "reference/accumulator.hpp"

#include <algorithm>
#include <climits>
#include <cmath>

#include "reference/formats.hpp"

namespace sage2 {
namespace {

/// Exponent of the leading bit, at least `least`.
int exponent_of(float x, int least) {
  return std::max(std::ilogb(x), least);
}

/// Toward zero, to `bits` fraction bits of the value's own exponent, or to FP32's smallest number.
double truncate_to(double x, int bits) {
  if (x == 0) return 0;
  const int shift = std::min(bits - std::ilogb(x), 149);
  return std::ldexp(std::trunc(std::ldexp(x, shift)), -shift);
}

/// FP16, to nearest even, straight from the exact sum: going through FP32 would round twice.
float round_double_to_fp16(double x) {
  if (x == 0) return 0;
  const int shift = 10 - std::max(std::ilogb(x), -14);
  const double r = std::ldexp(std::nearbyint(std::ldexp(x, shift)), -shift);
  if (std::fabs(r) > kFp16Max) return std::copysign(INFINITY, static_cast<float>(x));
  return static_cast<float>(r);
}

}  // namespace

int least_exponent(Format f) {
  switch (f) {
    case Format::e4m3:
      return -6;
    case Format::e5m2:
    case Format::fp16:
      return -14;
    default:
      return -126;
  }
}

AccumulatorModel accumulator_model(Arch arch, Format a, Format b, bool half) {
  const bool exact = a == Format::exact && b == Format::exact;
  const bool fp8 = is_fp8(a) || is_fp8(b) || (exact && arch != Arch::ampere);
  switch (arch) {
    case Arch::ampere:
    case Arch::ada:
      return fp8 ? AccumulatorModel{16, 13, 13, half} : AccumulatorModel{8, 24, 23, half};
    case Arch::hopper:
      return fp8 ? AccumulatorModel{32, 13, 13, half} : AccumulatorModel{16, 25, 23, half};
    // FP16 on Blackwell is taken to be as on Hopper: no published measurement differs.
    default:
      return fp8 ? AccumulatorModel{32, 25, 23, half} : AccumulatorModel{16, 25, 23, half};
  }
}

float accumulate_group(const AccumulatorModel& model, float c, std::span<const float> a, int least_a,
                       std::span<const float> b, int least_b) {
  if (!std::isfinite(c)) return c;
  // A subnormal C enters as it is, with the least exponent of its format.
  int e = c == 0 ? INT_MIN : exponent_of(c, model.half ? -14 : -126);
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] != 0 && b[i] != 0) e = std::max(e, exponent_of(a[i], least_a) + exponent_of(b[i], least_b));
  }
  if (e == INT_MIN) return 0;
  if (!model.half) e = std::max(e, kLeastSumExponent);
  // In units of 2^(e - fraction) every truncated term is an integer below 2^28, so the sum is exact in double.
  const int shift = model.fraction - e;
  double sum = std::trunc(std::ldexp(static_cast<double>(c), shift));
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += std::trunc(std::ldexp(static_cast<double>(a[i]) * static_cast<double>(b[i]), shift));
  }
  sum = std::ldexp(sum, -shift);
  const float out = model.half ? round_double_to_fp16(sum) : static_cast<float>(truncate_to(sum, model.out_fraction));
  return out == 0 ? 0.0F : out;  // what becomes zero loses its sign
}

}  // namespace sage2
