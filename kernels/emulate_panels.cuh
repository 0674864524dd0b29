#pragma once

#include <cstdint>

#include "kernels/emulate_loop.hpp"
#include "kernels/f64_math.cuh"
#include "reference/formats.hpp"

/// Products of two panels in shared memory. A panel holds k downwards and rows (of A) or columns (of B) side by side.
/// Every thread carries 4 x 4 results in registers.
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

/// Where column `column` of line k stands in a panel of doubles for the tensor core, which reads four columns of four
/// lines at once: moved so that they meet no bank twice.
__device__ inline int exchanged(int k, int column) {
  return column ^ (k % 4 * 4);
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
      const int at = kHow == Product::fp64 ? exchanged(i, column) : column;
      static_cast<double*>(panel.values)[(4 * quad + i) * stride + at] = static_cast<double>(x[i]) * unit;
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

/// A thread's place: 8 row groups by 4 column groups a warp.
struct Place {
  int rows, columns;

  [[nodiscard]] __device__ int lane() const { return rows % 8 + columns % 4 * 8; }
};

/// Row of a block that is row i of a thread's results. `heavy` reads doubles in pairs, so that the lanes of a quarter
/// warp read one stretch of memory; for `fp64` the tensor core says.
template <Product kHow, int kRows>
__device__ inline int row_of(Place at, int i) {
  if (kHow == Product::fp64) return at.rows / 8 * 32 + 8 * i + at.lane() / 4;
  return kHow == Product::heavy ? i / 2 * (kRows / 2) + at.rows * 2 + i % 2 : at.rows * 4 + i;
}
/// Column of the panel that is column j of a thread's results.
template <Product kHow>
__device__ inline int column_of(Place at, int j) {
  if (kHow == Product::fp64) return at.columns / 4 * 16 + 8 * (j / 2) + at.lane() % 4 * 2 + j % 2;
  return at.columns * 4 + j;
}
/// The first column of a thread's results, or of its warp's where a warp multiplies together.
template <Product kHow>
__device__ inline int first_column(Place at) {
  return kHow == Product::fp64 ? at.columns / 4 * 16 : at.columns * 4;
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

/// Products of FP32 values are exact in FP64, so that the fused operations of the tensor core round as the CPU's.
template <int kRows>
__device__ inline void multiply_fp64(Panel a, Panel b, Place at, int depth, double (&acc)[4][4]) {
  const int g = at.lane() / 4;
  const int k_of_lane = at.lane() % 4;
  const auto* const av = static_cast<const double*>(a.values) + k_of_lane * kRows;
  const auto* const bv = static_cast<const double*>(b.values) + k_of_lane * kPanelColumns;
  int rows[4];
  int columns[2];
#pragma unroll
  for (int i = 0; i < 4; ++i) rows[i] = exchanged(k_of_lane, row_of<Product::fp64, kRows>(at, i));
#pragma unroll
  for (int j = 0; j < 2; ++j) columns[j] = exchanged(k_of_lane, first_column<Product::fp64>(at) + 8 * j + g);
  // c[i][j]: rows 16i + g and 16i + 8 + g, two columns of each.
  double c[2][2][4];
  const auto each = [&](const auto& f) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) f(acc[i][j], c[i / 2][j / 2][i % 2 * 2 + j % 2]);
    }
  };
  each([](double& from, double& to) { to = from; });
  for_steps<2>(0, depth / 4, [&](int quad) {
    double x[4];
    double y[2];
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = av[quad * 4 * kRows + rows[i]];
#pragma unroll
    for (int j = 0; j < 2; ++j) y[j] = bv[quad * 4 * kPanelColumns + columns[j]];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) mma_16x8x4(c[i][j], x[2 * i], x[2 * i + 1], y[j]);
    }
  });
  each([](double& to, double& from) { to = from; });
}

}  // namespace sage2::cuda
