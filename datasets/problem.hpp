#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// The attention problem: what a capture holds and every engine computes.
namespace sage2 {

/// Formats in which captured tensors are stored.
enum class DType : std::uint8_t { float16, bfloat16, float32 };

/// "float16", "bfloat16", "float32".
[[nodiscard]] const char* to_string(DType dtype);

/// Row-major FP32 matrix. Holds captured values exactly, since every captured format is a subset of FP32.
struct Matrix {
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::vector<float> data;

  Matrix() = default;
  Matrix(std::size_t r, std::size_t c) : rows(r), cols(c), data(r * c) {}
  [[nodiscard]] float* row(std::size_t i) { return data.data() + i * cols; }
  [[nodiscard]] const float* row(std::size_t i) const { return data.data() + i * cols; }
  [[nodiscard]] float& operator()(std::size_t i, std::size_t j) { return data[i * cols + j]; }
  [[nodiscard]] float operator()(std::size_t i, std::size_t j) const { return data[i * cols + j]; }
};

/// Where a matrix has its first NaN or infinity, and how many it has in all.
struct NonFinite {
  std::size_t row = 0;
  std::size_t col = 0;
  std::size_t count = 0;
};
[[nodiscard]] std::optional<NonFinite> first_nonfinite(const Matrix& matrix);

/// Which key is the last that query row 0 sees where q_len != kv_len.
enum class CausalAlign : std::uint8_t {
  bottom_right,  ///< row i sees keys 0 .. i + kv_len - q_len (FlashAttention, decoding with a cache); the default
  top_left       ///< row i sees keys 0 .. i (PyTorch's scaled_dot_product_attention with is_causal)
};

/// Shape and meaning of one captured attention call.
struct Shape {
  std::size_t batch = 1;
  std::size_t q_heads = 1;
  std::size_t kv_heads = 1;
  std::size_t q_len = 1;
  std::size_t kv_len = 1;
  std::size_t head_dim = 1;
  bool operator==(const Shape&) const = default;
  /// The key/value head that query head `q_head` attends to (GQA).
  [[nodiscard]] std::size_t kv_head(std::size_t q_head) const { return q_head / (q_heads / kv_heads); }
};

/// One query head with its key/value head: Q [q_len, d], K and V [kv_len, d].
struct HeadProblem {
  Matrix q, k, v;
  DType dtype = DType::float16;  ///< of the capture; stored means are rounded to it
  bool is_causal = false;
  CausalAlign causal_align = CausalAlign::bottom_right;
  float sm_scale = 1.0F;

  /// Number of keys that query row `i` sees (0 .. kv_len); visible keys are always 0 .. visible(i) - 1.
  [[nodiscard]] std::size_t visible(std::size_t i) const {
    const auto kv_len = static_cast<std::int64_t>(k.rows);
    if (!is_causal) return k.rows;
    const std::int64_t shift =
        causal_align == CausalAlign::bottom_right ? kv_len - static_cast<std::int64_t>(q.rows) : 0;
    return static_cast<std::size_t>(std::clamp<std::int64_t>(static_cast<std::int64_t>(i) + shift + 1, 0, kv_len));
  }
};

}  // namespace sage2
