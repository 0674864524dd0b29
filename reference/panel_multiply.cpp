#include "reference/panel.hpp"
#include "reference/simd.hpp"

// Products are exact in the type they are computed in, so a fused multiply-add gives what a product and a sum give.
// This file is compiled with -ffp-contract=fast for that reason only.
namespace sage2 {
namespace {

/// Block of kBlock columns of B times the kStrip rows, held in registers over the whole depth.
template <class Vector, int kBlock, bool kAdd, class T>
void multiply_block(std::size_t depth, const T* a, PanelView<T> b, T* c) {
  constexpr std::size_t kWidth = sizeof(Vector) / sizeof(T);
  constexpr std::size_t kVectors = kStrip / kWidth;
  Vector sum[kBlock][kVectors];
  for (std::size_t j = 0; j < kBlock; ++j) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      sum[j][v] = kAdd ? simd::load<Vector>(c + j * kStrip + v * kWidth) : Vector{};
    }
  }
  for (std::size_t k = 0; k < depth; ++k) {
    for (std::size_t j = 0; j < kBlock; ++j) {
      const T scalar = b.data[k * b.stride_k + j * b.stride_n];
      for (std::size_t v = 0; v < kVectors; ++v) sum[j][v] += simd::load<Vector>(a + k * kStrip + v * kWidth) * scalar;
    }
  }
  for (std::size_t j = 0; j < kBlock; ++j) {
    for (std::size_t v = 0; v < kVectors; ++v) simd::store(c + j * kStrip + v * kWidth, sum[j][v]);
  }
}

template <class Vector, int kBlock, bool kAdd, class T>
void multiply(std::size_t depth, std::size_t n, const T* a, PanelView<T> b, T* c) {
  std::size_t j = 0;
  for (; j + kBlock <= n; j += kBlock) {
    multiply_block<Vector, kBlock, kAdd>(depth, a, {b.data + j * b.stride_n, b.stride_k, b.stride_n}, c + j * kStrip);
  }
  for (; j < n; ++j) {
    multiply_block<Vector, 1, kAdd>(depth, a, {b.data + j * b.stride_n, b.stride_k, b.stride_n}, c + j * kStrip);
  }
}

}  // namespace

void multiply_exact_int(std::size_t depth, std::size_t n, const float* a, PanelView<float> b, float* c) {
  multiply<simd::Floats, 8, false>(depth, n, a, b, c);
}

void multiply_fp64(std::size_t depth, std::size_t n, const double* a, PanelView<double> b, double* c) {
  multiply<simd::Doubles, 4, true>(depth, n, a, b, c);
}

}  // namespace sage2
