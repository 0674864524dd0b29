#pragma once

#include <cstdint>

#include "kernels/emulate_panels.cuh"

/// From memory to panels. Each unit of work is four k of one row or column; all threads of a block take part.
namespace sage2::cuda {

/// Codes that are not finite are taken out where there may be any: what sees them becomes NaN at the end.
__device__ inline void clean(bool may_overflow, float (&x)[4]) {
  if (!may_overflow) return;
#pragma unroll
  for (float& value : x) value = isfinite(value) ? value : 0.0F;
}

/// codes: row `row[r]` starts at codes + row[r] * stride.
template <Product kHow, int kRows>
__device__ inline void stage_q(Panel to, const float* codes, int stride, const std::uint32_t* row, int depth,
                               ExponentRule rule, bool may_overflow) {
  for (int e = static_cast<int>(threadIdx.x); e < depth / 4 * kRows; e += 4 * kRows) {
    const int r = e % kRows;
    const int quad = e / kRows;
    float x[4];
    read4<float4>(codes + static_cast<std::int64_t>(row[r]) * stride + 4 * quad, x);
    clean(may_overflow, x);
    put4<kHow>(to, kRows, quad, r, x, rule, a_unit<kHow>());
  }
}

/// codes: [keys, stride]; channels go down the panel.
template <Product kHow, int kThreads>
__device__ inline void stage_k(Panel to, const float* codes, int stride, int keys, int depth, ExponentRule rule,
                               bool may_overflow) {
  for (int e = static_cast<int>(threadIdx.x); e < depth / 4 * keys; e += kThreads) {
    // Words of integers are written eight quads by four keys a warp, which reads whole lines; for the wider elements
    // neighbouring lanes take neighbouring keys, which writes without conflicts.
    const int of_eight = e / 8;
    const int key = kHow == Product::integer ? of_eight % keys : e % keys;
    const int quad = kHow == Product::integer ? of_eight / keys * 8 + e % 8 : e / keys;
    float x[4];
    read4<float4>(codes + static_cast<std::int64_t>(key) * stride + 4 * quad, x);
    clean(may_overflow, x);
    put4<kHow>(to, b_stride(kHow), quad, key, x, rule, 1.0);
  }
}

/// codes: [keys, stride], of which `columns`; zeros beyond them.
template <Product kHow, int kThreads>
__device__ inline void stage_v(Panel to, const float* codes, int stride, int keys, int columns, ExponentRule rule,
                               bool may_overflow) {
#pragma unroll 2
  for (int e = static_cast<int>(threadIdx.x); e < keys / 4 * kPanelColumns; e += kThreads) {
    const int c = e % kPanelColumns;
    const int quad = e / kPanelColumns;
    float x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = c < columns ? codes[static_cast<std::int64_t>(4 * quad + i) * stride + c] : 0.0F;
    }
    clean(may_overflow, x);
    put4<kHow>(to, b_stride(kHow), quad, c, x, rule, 1.0);
  }
}

/// Codes of P from where the softmax left them, times `back`. `light` multiplies them there and wants their exponents
/// only.
template <Product kHow, int kRows>
__device__ inline void stage_p(Panel to, const float* codes, int keys, ExponentRule rule, float back) {
  for (int e = static_cast<int>(threadIdx.x); e < keys / 4 * kRows; e += 4 * kRows) {
    const int r = e % kRows;
    const int quad = e / kRows;
    float x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = codes[(4 * quad + i) * kRows + r] * back;
    put4<kHow, kHow != Product::light>(to, kRows, quad, r, x, rule, a_unit<kHow>());
  }
}

}  // namespace sage2::cuda
