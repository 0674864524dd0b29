#pragma once

#include <cstdint>

#include "kernels/emulate_loop.hpp"
#include "reference/formats.hpp"

/// Products of two panels in shared memory, in the arithmetic of the accumulator models. A panel holds k downwards and
/// rows (of A) or columns (of B) side by side. Every thread carries a square of 4 x 4 results in registers.
namespace sage2::cuda {

template <Product kHow>
struct Sum {
  using Type = float;
};
template <>
struct Sum<Product::integer> {
  using Type = int;
};
template <>
struct Sum<Product::fp64> {
  using Type = double;
};

/// An operand in shared memory. Values: words of four k (integer), floats or doubles. Exponents: words of two k.
struct Panel {
  void* values;
  std::uint32_t* exponents;
};

template <Product kHow>
__device__ inline Panel panel_at(Panel panel, int k, int stride) {
  auto* const bytes = static_cast<unsigned char*>(panel.values);
  // The packed stride of integers is in words of four k.
  return {bytes + static_cast<std::size_t>(k) * stride * value_size(kHow),
          has_exponents(kHow) ? panel.exponents + k / 2 * stride : nullptr};
}

__device__ inline int exponent_field(float x) {
  return static_cast<int>((__float_as_uint(x) >> 23) & 0xFFU);
}

__device__ inline int operand_exponent(ExponentRule rule, float x) {
  const int e = exponent_field(x) - 127;
  return x == 0 ? rule.zero : max(rule.least, min(e, rule.most));
}

__device__ inline std::uint32_t exponent_pair(ExponentRule rule, float x, float y) {
  return (static_cast<std::uint32_t>(operand_exponent(rule, x)) & 0xFFFFU) |
         static_cast<std::uint32_t>(operand_exponent(rule, y)) << 16;
}

/// Writes elements 4 quad .. 4 quad + 3 of one column; `unit` is a power of two. kValues: exponents alone otherwise.
template <Product kHow, bool kValues = true>
__device__ inline void put4(Panel panel, int stride, int quad, int column, const float (&x)[4], ExponentRule rule,
                            double unit) {
  if constexpr (kHow == Product::integer) {
    std::uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) word |= (static_cast<std::uint32_t>(static_cast<int>(x[i])) & 0xFFU) << (8 * i);
    static_cast<std::uint32_t*>(panel.values)[quad * stride + column] = word;
  } else if constexpr (in_double(kHow)) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      static_cast<double*>(panel.values)[(4 * quad + i) * stride + column] = static_cast<double>(x[i]) * unit;
    }
  } else if constexpr (kValues) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      static_cast<float*>(panel.values)[(4 * quad + i) * stride + column] = x[i] * static_cast<float>(unit);
    }
  }
  if constexpr (has_exponents(kHow)) {
    panel.exponents[2 * quad * stride + column] = exponent_pair(rule, x[0], x[1]);
    panel.exponents[(2 * quad + 1) * stride + column] = exponent_pair(rule, x[2], x[3]);
  }
}

/// What A is multiplied by when it is staged, so that the terms of `light` and `heavy` end among the subnormals.
constexpr double kHeavyUnit = 0x1p-500;
template <Product kHow>
__device__ constexpr double a_unit() {
  return kHow == Product::light ? static_cast<double>(kLightUnit) : (kHow == Product::heavy ? kHeavyUnit : 1.0);
}

/// Row of a block that is row i of a thread in row group `group`. Doubles are read in pairs, so that the lanes of a
/// quarter warp read one stretch of memory.
template <Product kHow, int kRows>
__device__ inline int row_of(int group, int i) {
  return in_double(kHow) ? i / 2 * (kRows / 2) + group * 2 + i % 2 : group * 4 + i;
}

/// Four neighbours as scalars.
template <class Vector, class T>
__device__ inline void read4(const T* from, T (&to)[4]) {
  const Vector v = *reinterpret_cast<const Vector*>(from);
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
/// Two pairs, `apart` elements from each other.
template <class Vector, class T>
__device__ inline void read22(const T* from, int apart, T (&to)[4]) {
  const Vector u = *reinterpret_cast<const Vector*>(from);
  const Vector v = *reinterpret_cast<const Vector*>(from + apart);
  to[0] = u.x, to[1] = u.y, to[2] = v.x, to[3] = v.y;
}

/// Calls f(first) .. f(last - 1), some calls at a time without a branch; last - first is a multiple of kStep.
template <int kStep, class F>
__device__ inline void for_steps(int first, int last, const F& f) {
#pragma unroll 1
  for (int k = first; k < last; k += kStep) {
#pragma unroll
    for (int i = 0; i < kStep; ++i) f(k + i);
  }
}

/// A thread's place: results are rows row_of(rows, 0..3) and columns 4 columns .. 4 columns + 3.
struct Place {
  int rows, columns;
};

template <int kRows>
__device__ inline void multiply_integer(Panel a, Panel b, Place at, int depth, int (&acc)[4][4]) {
  const auto* const aw = static_cast<const std::uint32_t*>(a.values) + at.rows * 4;
  const auto* const bw = static_cast<const std::uint32_t*>(b.values) + at.columns * 4;
  for_steps<4>(0, depth / 4, [&](int quad) {
    std::uint32_t x[4];
    std::uint32_t y[4];
    read4<uint4>(aw + quad * kRows, x);
    read4<uint4>(bw + quad * b_stride(Product::integer), y);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) acc[i][j] = __dp4a(static_cast<int>(x[i]), static_cast<int>(y[j]), acc[i][j]);
    }
  });
}

/// Products of FP32 values are exact in FP64, so that the fused operation rounds as the CPU's.
template <int kRows>
__device__ inline void multiply_fp64(Panel a, Panel b, Place at, int depth, double (&acc)[4][4]) {
  const auto* const av = static_cast<const double*>(a.values) + at.rows * 2;
  const auto* const bv = static_cast<const double*>(b.values) + at.columns * 4;
  for_steps<4>(0, depth, [&](int k) {
    double x[4];
    double y[4];
    read22<double2>(av + k * kRows, kRows / 2, x);
    read22<double2>(bv + k * kPanelColumns, 2, y);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) acc[i][j] = fma(x[i], y[j], acc[i][j]);
    }
  });
}

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
