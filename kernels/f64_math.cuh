#pragma once

#include <cuda_runtime_api.h>

/// FP64 building blocks of the reference: the tensor core's product and a power of two.
namespace sage2::cuda {

/// C += A B in FP64 on tensor cores: A [16, 4], B [4, 8], C [16, 8]. With g = lane / 4 and q = lane % 4 a lane holds
/// a[h] = A(g + 8h, q), b = B(q, g), c[2h + e] = C(g + 8h, 2q + e). Each result is a chain of fused multiply-adds over
/// ascending k, so that it is to the last bit what one thread would get (tests/kernels/emulate_test.cpp).
__device__ __forceinline__ void mma_16x8x4(double (&c)[4], double a0, double a1, double b) {
#if __CUDA_ARCH__ >= 900
  asm("mma.sync.aligned.m16n8k4.row.col.f64.f64.f64.f64 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
      : "d"(a0), "d"(a1), "d"(b));
#else
  // Ampere has the smallest shape only; its fragments are parts of the large one's.
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
      : "+d"(c[0]), "+d"(c[1])
      : "d"(a0), "d"(b));
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
      : "+d"(c[2]), "+d"(c[3])
      : "d"(a1), "d"(b));
#endif
}

/// The same of 16 k: A [16, 16], B [16, 8]. A lane holds
/// a[2i + h] = A(g + 8h, q + 4i), b[i] = B(q + 4i, g), c[2h + e] = C(g + 8h, 2q + e).
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#warp-level-matrix-fragment-mma-16816-f64
__device__ __forceinline__ void mma_16x8x16(double (&c)[4], const double (&a)[8], const double (&b)[4]) {
#if __CUDA_ARCH__ >= 900
  asm("mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7,%8,%9,%10,%11}, {%12,%13,%14,%15}, {%0,%1,%2,%3};"
      : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
      : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(a[4]), "d"(a[5]), "d"(a[6]), "d"(a[7]), "d"(b[0]), "d"(b[1]),
        "d"(b[2]), "d"(b[3]));
#else
#pragma unroll
  for (int i = 0; i < 4; ++i) mma_16x8x4(c, a[2 * i], a[2 * i + 1], b[i]);
#endif
}

/// x := 2^x for x < 1000, relative error below 2^-52; 0 below -1021; NaN at NaN. Several at once, step by step: FP64
/// instructions take long, and independent ones fill the time.
///
/// x = n + r with |r| <= 1/2, 2^x = 2^n (1 + r q(r)). The coefficients of q interpolate (2^r - 1) / r at the Chebyshev
/// nodes of the interval: 2^r is met within 0.18 * 2^-53 before rounding.
template <int n>
__device__ __forceinline__ void exp2_f64(double (&x)[n]) {
  constexpr double kRound = 0x1.8p52;  // adding it leaves the nearest integer in the low bits
  constexpr double kQ[] = {0x1.e9d3fe3952179p-32, 0x1.e6063f7217bc6p-28, 0x1.b524fae627834p-24, 0x1.62bfd47773353p-20,
                           0x1.ffcbfc670dcd4p-17, 0x1.430913096fd9fp-13, 0x1.5d87fe78a5276p-10, 0x1.3b2ab6fba1ddap-7,
                           0x1.c6b08d704a0c2p-5,  0x1.ebfbdff82c598p-3,  0x1.62e42fefa39efp-1};
  double y[n];
  int exponent[n];
  int keep[n];
#pragma unroll
  for (int i = 0; i < n; ++i) {
    // All ones, but zero from -infinity to -1021. By the bits of x, off the FP64 pipe.
    constexpr unsigned kHigh1021 = 0xC08FE800U;
    constexpr unsigned kHighInf = 0xFFF00000U;
    const auto high = static_cast<unsigned>(__double2hiint(x[i]));
    keep[i] = high - kHigh1021 <= kHighInf - kHigh1021 ? 0 : -1;
    const double shifted = x[i] + kRound;
    exponent[i] = __double2loint(shifted) << 20;  // 0 for NaN
    x[i] -= shifted - kRound;
    y[i] = kQ[0];
  }
#pragma unroll
  for (int k = 1; k < 11; ++k) {
#pragma unroll
    for (int i = 0; i < n; ++i) y[i] = fma(y[i], x[i], kQ[k]);
  }
#pragma unroll
  for (int i = 0; i < n; ++i) {
    y[i] = fma(y[i], x[i], 1.0);
    x[i] = __hiloint2double((__double2hiint(y[i]) + exponent[i]) & keep[i], __double2loint(y[i]) & keep[i]);
  }
}

}  // namespace sage2::cuda
