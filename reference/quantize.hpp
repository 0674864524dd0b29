#pragma once

#include <cstdint>
#include <vector>

#include "datasets/problem.hpp"
#include "reference/variant.hpp"

/// Smoothing, transforms and quantisation of Q, K and V: everything that happens before the attention loop.
namespace sage2 {

/// Codes and scales of one operand of QK^T. Unscaled formats have scale 1 and carry rounded values as codes.
struct QkOperand {
  Matrix codes;              ///< [padded length, padded head_dim], zeros in the padding
  std::vector<float> scale;  ///< [padded length]: the scale of each row's group, 0 in the padding
};

/// Columns of V that share a format.
struct VOperand {
  Format format = Format::exact;
  std::vector<std::uint32_t> channels;  ///< which columns of V and of the output
  Matrix codes;                         ///< [padded kv_len, channels]
  Matrix scale;                         ///< [1, channels], or [key tiles, channels] with v_gran=per_block
};

struct Operands {
  QkOperand q, k;
  /// Smooth Q: q_mean K'^T sm_scale log2(e) for each block of 128 query rows, [blocks, padded kv_len]; else empty.
  Matrix delta_s;
  std::vector<VOperand> v;      ///< one part, and a second for the outlier channels of v_outliers=split
  std::vector<float> v_mean;    ///< [head_dim], empty without smooth V
  std::uint64_t saturated = 0;  ///< codes clamped to their format's range
};

/// Quantises one head. The means are sums in FP64 (exact for 16-bit inputs of common lengths, so that the order does
/// not matter), rounded once: to the input's format for K, as the official kernels store it, to FP32 for Q and V; the
/// subtraction is in FP32. Scales follow the official quantisers: per_thread is max|x|/top + 1e-7 and rounds half away
/// from zero (Triton), everything else max(1e-7, max|x|)/top and rounds half to even (CUDA). All-zero groups and
/// channels therefore give zeros, never NaN.
[[nodiscard]] Operands quantize(const HeadProblem& problem, const Variant& variant);

/// The largest magnitude to which V is scaled: the format's top, or 2.25 where products are summed in FP16
/// (SageAttention2++: 64 x 448 x 2.25 stays below 65504).
[[nodiscard]] float v_range(const Variant& variant);

}  // namespace sage2
