#include <cstring>

#include "reference/panel.hpp"

// Products are exact in the type they are computed in, so a fused multiply-add gives what a product and a sum give.
// This file is compiled with -ffp-contract=fast for that reason only.
namespace sage2 {
namespace {

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using Type = float __attribute__((vector_size(64)));
};
template <>
struct VectorOf<double> {
  using Type = double __attribute__((vector_size(64)));
};

/// Block of kBlock columns of B times the kStrip rows, held in registers over the whole depth.
template <class T, int kBlock, bool kAdd>
void multiply_block(std::size_t depth, const T* __restrict a, PanelView<T> b, T* __restrict c) {
  constexpr int kWidth = 64 / sizeof(T);
  constexpr int kVectors = static_cast<int>(kStrip) / kWidth;
  using Vector = typename VectorOf<T>::Type;
  Vector sum[kBlock][kVectors];
  for (int j = 0; j < kBlock; ++j) {
    for (int v = 0; v < kVectors; ++v) {
      if constexpr (kAdd) {
        std::memcpy(&sum[j][v], c + static_cast<std::size_t>(j) * kStrip + static_cast<std::size_t>(v) * kWidth, 64);
      } else {
        sum[j][v] = Vector{};
      }
    }
  }
  for (std::size_t k = 0; k < depth; ++k) {
    Vector row[kVectors];
    std::memcpy(&row, a + k * kStrip, sizeof row);
    for (int j = 0; j < kBlock; ++j) {
      const T scalar = b.data[k * b.stride_k + static_cast<std::size_t>(j) * b.stride_n];
      for (int v = 0; v < kVectors; ++v) sum[j][v] += row[v] * scalar;
    }
  }
  std::memcpy(c, &sum, sizeof sum);
}

template <class T, int kBlock, bool kAdd>
void multiply(std::size_t depth, std::size_t n, const T* a, PanelView<T> b, T* c) {
  std::size_t j = 0;
  for (; j + kBlock <= n; j += kBlock) {
    multiply_block<T, kBlock, kAdd>(depth, a, {b.data + j * b.stride_n, b.stride_k, b.stride_n}, c + j * kStrip);
  }
  for (; j < n; ++j) {
    multiply_block<T, 1, kAdd>(depth, a, {b.data + j * b.stride_n, b.stride_k, b.stride_n}, c + j * kStrip);
  }
}

}  // namespace

void multiply_exact_int(std::size_t depth, std::size_t n, const float* a, PanelView<float> b, float* c) {
  multiply<float, 8, false>(depth, n, a, b, c);
}

void multiply_fp64(std::size_t depth, std::size_t n, const double* a, PanelView<double> b, double* c) {
  multiply<double, 4, true>(depth, n, a, b, c);
}

}  // namespace sage2
