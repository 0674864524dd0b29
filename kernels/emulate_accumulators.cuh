#pragma once

#include "kernels/emulate_panels.cuh"

/// Products in the arithmetic of the tensor cores' accumulators, on CUDA cores (docs/numerics.md, section 4).
namespace sage2::cuda {

/// The largest of both halves of a word and of `lowest`.
__device__ inline int largest_of(std::uint32_t pair, int lowest) {
  return max(max(static_cast<int>(static_cast<short>(pair & 0xFFFFU)), static_cast<int>(pair) >> 16), lowest);
}

constexpr std::uint32_t kNoExponents = 0xF448F448U;  // two of -3000: below every sum

/// The accumulator with 13 fraction bits. Truncating a product toward zero to a multiple of a unit is what an FP32
/// multiplication with that rounding does among the subnormals, where the unit is 2^-149: A carries 2^-70, B gets the
/// rest from the group's exponent, and both steps before the last are exact. The sum of at most 33 terms below 2^15
/// units is exact as well. Exponents are kept where FP32 has them, 23 bits up.
template <int kRows, bool kHalf>
__device__ inline void multiply_light(Panel a, Panel b, Place at, int depth, const ProductPlan& plan,
                                      float (&acc)[4][4]) {
  constexpr int kFraction = 13;
  constexpr int kField = 1 << 23;
  const auto* const av = static_cast<const float*>(a.values) + at.rows * 4;
  const auto* const bv = static_cast<const float*>(b.values) + at.columns * 4;
  const auto* const ae = a.exponents + at.rows * 4;
  const auto* const be = b.exponents + at.columns * 4;
  const int group = plan.model.group;
  const int lowest = plan.lowest;
  const int least_c = plan.least_c;
#pragma unroll 1
  for (int first = 0; first < depth; first += group) {
    std::uint32_t largest[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) largest[i][j] = kNoExponents;
    }
    for_steps<4>(first / 2, (first + group) / 2, [&](int pair) {
      std::uint32_t x[4];
      std::uint32_t y[4];
      read4<uint4>(ae + pair * kRows, x);
      read4<uint4>(be + pair * kPanelColumns, y);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) largest[i][j] = __viaddmax_s16x2(x[i], y[j], largest[i][j]);
      }
    });
    float scale[4][4];  // 2^(13 - E - 149 + 70)
    float sum[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int products = largest_of(largest[i][j], lowest) * kField;
        // Zero has the field 0, which is below `lowest`.
        int own = (__float_as_int(acc[i][j]) & 0x7F800000) - 127 * kField;
        if constexpr (kHalf) own = own > -127 * kField ? max(own, least_c * kField) : own;
        const int e = max(products, own);
        sum[i][j] = __fmul_rz(acc[i][j] * __int_as_float((kFraction + 127) * kField - e), 0x1p-149F);
        scale[i][j] = __int_as_float((kFraction - 79 + 127) * kField - e);
      }
    }
    for_steps<4>(first, first + group, [&](int k) {
      float x[4];
      float y[4];
      read4<float4>(av + k * kRows, x);
      read4<float4>(bv + k * kPanelColumns, y);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] += __fmul_rz(x[i], y[j] * scale[i][j]);
      }
    });
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        // 2^(E - 13 + 49): the fields of this and of `scale` add up to a constant. Adding 0 makes -0 what integers
        // give.
        const float unit = __int_as_float(224 * kField - __float_as_int(scale[i][j]));
        const float value = fmaf(sum[i][j], 0x1p100F, 0.0F) * unit;
        if constexpr (kHalf) {
          // An FP16 accumulator that overflowed stays infinite.
          acc[i][j] = exponent_field(acc[i][j]) == 255 ? acc[i][j] : round_fp16(value);
        } else {
          acc[i][j] = __uint_as_float(__float_as_uint(value) & ~((1U << (23 - kFraction)) - 1U));
        }
      }
    }
  }
}

/// An accumulator of `heavy`, as FP64 times 2^-500, like A.
__device__ inline double heavy_accumulator(float acc) {
  return static_cast<double>(acc) * kHeavyUnit;
}
__device__ inline float from_heavy(double acc) {
  return static_cast<float>(acc * (1 / kHeavyUnit));
}

/// What FP32 makes of a value that it would hold but for its range, all times 2^-500. (A conversion there and back is
/// slower than everything else that a group of products needs.)
__device__ inline double within_fp32(double value) {
  constexpr double kPush = 0x1p-149 * (1.5 * 0x1p52) * kHeavyUnit;  // rounds subnormals to nearest even
  const double size = fabs(value);
  const double subnormal = copysign((size + kPush) - kPush, value);
  const double large = size < 0x1p128 * kHeavyUnit ? value : copysign(static_cast<double>(INFINITY), value);
  return size < 0x1p-126 * kHeavyUnit ? subnormal : large;
}

/// An exact sum, times 2^-500, in the accumulator's own format.
template <bool kHalf>
__device__ inline double delivered(double value, long long keep) {
  const auto bits = __double_as_longlong(value);
  if constexpr (kHalf) {
    // To FP16 in FP64 (a detour through FP32 would round twice): 52 - 10 bits are pushed out.
    const double power = __longlong_as_double(bits & 0x7FF0000000000000LL);
    const double magic = (power > 0x1p-14 * kHeavyUnit ? power : 0x1p-14 * kHeavyUnit) * (1.5 * 0x1p42);
    const double near = (value + magic) - magic;
    return fabs(near) > 65504.0 * kHeavyUnit ? copysign(static_cast<double>(INFINITY), value) : near;
  } else {
    return __longlong_as_double(bits & keep);
  }
}

/// Accumulators of any width: the same among the subnormals of FP64, whose unit is 2^-1074; A carries 2^-500, and so
/// does the accumulator between groups. Two columns at a time, for want of registers.
template <int kRows, bool kHalf>
__device__ inline void multiply_heavy(Panel a, Panel b, Place at, int depth, const ProductPlan& plan,
                                      float (&acc)[4][4]) {
  constexpr int kField = 1 << 20;
  const auto* const av = static_cast<const double*>(a.values) + at.rows * 2;
  const auto* const bv = static_cast<const double*>(b.values) + at.columns * 4;
  const auto* const ae = a.exponents + at.rows * 2;
  const auto* const be = b.exponents + at.columns * 4;
  const int group = plan.model.group;
  const int lowest = plan.lowest;
  const int least_c = plan.least_c * kField;
  const int fraction = plan.model.fraction * kField;
  const long long keep = ~((1LL << (52 - plan.model.out_fraction)) - 1);
  const double zero = plan.unsigned_zero ? 0.0 : -0.0;  // what is added to a sum; -0 changes nothing
#pragma unroll
  for (int half = 0; half < 4; half += 2) {
    double c[4][2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) c[i][j] = heavy_accumulator(acc[i][half + j]);
    }
#pragma unroll 1
    for (int first = 0; first < depth; first += group) {
      std::uint32_t largest[4][2];
#pragma unroll
      for (int i = 0; i < 4; ++i) largest[i][0] = largest[i][1] = kNoExponents;
      for_steps<4>(first / 2, (first + group) / 2, [&](int pair) {
        std::uint32_t x[4];
        read22<uint2>(ae + pair * kRows, kRows / 2, x);
        const uint2 y = *reinterpret_cast<const uint2*>(be + pair * kPanelColumns + half);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          largest[i][0] = __viaddmax_s16x2(x[i], y.x, largest[i][0]);
          largest[i][1] = __viaddmax_s16x2(x[i], y.y, largest[i][1]);
        }
      });
      double scale[4][2];  // 2^(fraction - E - 1074 + 500)
      double sum[4][2];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int products = largest_of(largest[i][j], lowest) * kField;
          const int field = __double2hiint(c[i][j]) & 0x7FF00000;
          const int own = field == 0 ? products : max(field + (500 - 1023) * kField, least_c);
          scale[i][j] = __hiloint2double(fraction + (500 - 1074 + 1023) * kField - max(products, own), 0);
          sum[i][j] = __dmul_rz(c[i][j], scale[i][j]);
        }
      }
      for_steps<4>(first, first + group, [&](int k) {
        double x[4];
        read22<double2>(av + k * kRows, kRows / 2, x);
        const double2 y = *reinterpret_cast<const double2*>(bv + k * kPanelColumns + half);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sum[i][0] += __dmul_rz(x[i], y.x * scale[i][0]);
          sum[i][1] += __dmul_rz(x[i], y.y * scale[i][1]);
        }
      });
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          // 2^(E - fraction + 474 - 500); its field and that of `scale` add up to a constant.
          const double unit = __hiloint2double(1446 * kField - __double2hiint(scale[i][j]), 0);
          const double next = delivered<kHalf>(fma(sum[i][j], 0x1p600, zero) * unit, keep);
          // What overflowed stays infinite.
          c[i][j] = (__double2hiint(c[i][j]) & 0x7FF00000) == 0x7FF00000 ? c[i][j] : next;
        }
      }
      if constexpr (!kHalf) {
        if (!plan.any_range) continue;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 2; ++j) c[i][j] = within_fp32(c[i][j]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) acc[i][half + j] = from_heavy(c[i][j]);
    }
  }
}

/// acc += A B over `depth` k, a multiple of 32, in ascending order. Only PV has FP16 accumulators.
template <Product kHow, int kRows, bool kMayBeHalf>
__device__ inline void multiply(Panel a, Panel b, Place at, int depth, const ProductPlan& plan,
                                typename Sum<kHow>::Type (&acc)[4][4]) {
  if constexpr (kHow == Product::integer) multiply_integer<kRows>(a, b, at, depth, acc);
  if constexpr (kHow == Product::fp64) multiply_fp64<kRows>(a, b, at, depth, acc);
  if constexpr (has_exponents(kHow)) {
    const auto run = [&]<bool kHalf>() {
      if constexpr (kHow == Product::light) multiply_light<kRows, kHalf>(a, b, at, depth, plan, acc);
      if constexpr (kHow == Product::heavy) multiply_heavy<kRows, kHalf>(a, b, at, depth, plan, acc);
    };
    if constexpr (kMayBeHalf) {
      if (plan.model.half) return run.template operator()<true>();
    }
    run.template operator()<false>();
  }
}

}  // namespace sage2::cuda
