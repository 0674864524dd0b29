#pragma once

#include <cstdint>

#include "datasets/problem.hpp"

/// The attention problem on a device.
namespace sage2::cuda {

/// A tensor [batch, heads, tokens, channels] in device memory: any strides (HND, NHD), channels side by side.
/// Strides are in elements.
struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::float16;
  std::int64_t batch = 1, heads = 1, tokens = 1, channels = 1;
  std::int64_t stride_batch = 0, stride_head = 0, stride_token = 0;
};

/// All heads of one attention call. Query head h attends to key/value head h / (q.heads / k.heads).
struct DeviceProblem {
  TensorView q;                  ///< [batch, q_heads, q_len, head_dim]
  TensorView k, v;               ///< [batch, kv_heads, kv_len, head_dim]
  DType dtype = DType::float16;  ///< of the capture: stored means are rounded to it (views may hold it as FP32)
  bool is_causal = false;
  CausalAlign causal_align = CausalAlign::bottom_right;
  float sm_scale = 1.0F;

  /// Query heads of all batch entries; head b * q.heads + h is head h of batch entry b.
  [[nodiscard]] std::int64_t q_count() const { return q.batch * q.heads; }
  [[nodiscard]] std::int64_t kv_count() const { return k.batch * k.heads; }
  /// Row i sees keys 0 .. clamp(i + causal_shift() + 1, 0, kv_len) - 1 where the mask is causal.
  [[nodiscard]] std::int64_t causal_shift() const {
    return causal_align == CausalAlign::bottom_right ? k.tokens - q.tokens : 0;
  }
};

/// Query rows to compute: rows[head * count + i] is the i-th row wanted of a head (device memory); null for all rows.
struct RowSelection {
  const std::uint32_t* rows = nullptr;
  std::int64_t count = 0;
};

}  // namespace sage2::cuda
