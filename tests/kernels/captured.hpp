#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/device_buffer.hpp"
#include "kernels/device_problem.hpp"
#include "tests/reference/problems.hpp"

/// Attention calls as captures hold them, on the host for the CPU engine and on the device for the kernels.
namespace sage2::testing {

/// What a captured call looks like.
struct CallSpec {
  Shape shape;
  DType dtype = DType::float16;
  bool nhd = false;              ///< [batch, tokens, heads, channels]
  std::int64_t row_padding = 0;  ///< unused elements after each row of channels
  std::int64_t offset = 0;       ///< unused elements before the first
  bool is_causal = false;
  CausalAlign causal_align = CausalAlign::bottom_right;
  float q_spread = 1, q_bias = 0, k_bias = 0, v_bias = 0;
  float sm_scale = 0;  ///< 0: 1/sqrt(head_dim)
  std::uint64_t seed = 1;
};

/// Nearest value of BF16 (ties to even).
inline float to_bf16_value(float x) {
  auto bits = std::bit_cast<std::uint32_t>(x);
  bits += 0x7FFFU + ((bits >> 16U) & 1U);
  return std::bit_cast<float>(bits & 0xFFFF0000U);
}

/// The bits of an FP16 value (finite, normal or zero) that is given as FP32; NaN and infinity too.
inline std::uint16_t fp16_bits(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>((bits >> 16U) & 0x8000U);
  if (x != x) return sign | 0x7E00U;
  const float magnitude = std::abs(x);
  if (magnitude > 65504.0F) return sign | 0x7C00U;
  if (magnitude < 0x1p-14F) return sign | static_cast<std::uint16_t>(magnitude * 0x1p24F);
  return static_cast<std::uint16_t>(sign | (((bits & 0x7FFFFFFFU) >> 13U) - (112U << 10U)));
}

/// One call: matrices [batch * heads] for the CPU, tensors in the capture's format and layout for the device.
class CapturedCall {
 public:
  CapturedCall(const CallSpec& spec, cudaStream_t stream) : spec_(spec), stream_(stream) {
    Random random(spec.seed);
    const Shape& s = spec.shape;
    const auto make = [&](std::size_t heads, std::size_t tokens, float spread, float bias) {
      std::vector<Matrix> matrices;
      for (std::size_t h = 0; h < s.batch * heads; ++h) {
        matrices.push_back(random_matrix(tokens, s.head_dim, random, spread, bias));
        for (float& x : matrices.back().data) {
          if (spec.dtype == DType::bfloat16) x = to_bf16_value(x);
          if (spec.dtype == DType::float32) x += 0x1p-13F * gaussian(random);
        }
      }
      return matrices;
    };
    q = make(s.q_heads, s.q_len, spec.q_spread, spec.q_bias);
    k = make(s.kv_heads, s.kv_len, 1, spec.k_bias);
    v = make(s.kv_heads, s.kv_len, 1, spec.v_bias);
  }

  std::vector<Matrix> q, k, v;  ///< may be changed before upload()

  /// The problem on the device; the memory is this object's.
  cuda::DeviceProblem upload() {
    cuda::DeviceProblem p;
    p.q = put(q, spec_.shape.q_heads, q_memory_);
    p.k = put(k, spec_.shape.kv_heads, k_memory_);
    p.v = put(v, spec_.shape.kv_heads, v_memory_);
    p.dtype = spec_.dtype;
    p.is_causal = spec_.is_causal;
    p.causal_align = spec_.causal_align;
    p.sm_scale = scale();
    return p;
  }

  /// Query head `h`, counted over the batch, with its key/value head.
  [[nodiscard]] HeadProblem head(std::size_t h) const {
    const Shape& s = spec_.shape;
    const std::size_t kv = h / s.q_heads * s.kv_heads + s.kv_head(h % s.q_heads);
    HeadProblem p;
    p.q = q[h];
    p.k = k[kv];
    p.v = v[kv];
    p.dtype = spec_.dtype;
    p.is_causal = spec_.is_causal;
    p.causal_align = spec_.causal_align;
    p.sm_scale = scale();
    return p;
  }

 private:
  [[nodiscard]] float scale() const {
    return spec_.sm_scale != 0 ? spec_.sm_scale : 1.0F / std::sqrt(static_cast<float>(spec_.shape.head_dim));
  }

  cuda::TensorView put(const std::vector<Matrix>& matrices, std::size_t heads,
                       cuda::DeviceBuffer<std::uint8_t>& memory) {
    cuda::TensorView t;
    t.dtype = spec_.dtype;
    t.batch = static_cast<std::int64_t>(spec_.shape.batch);
    t.heads = static_cast<std::int64_t>(heads);
    t.tokens = static_cast<std::int64_t>(matrices[0].rows);
    t.channels = static_cast<std::int64_t>(matrices[0].cols);
    const std::int64_t row = t.channels + spec_.row_padding;
    t.stride_token = spec_.nhd ? t.heads * row : row;
    t.stride_head = spec_.nhd ? row : t.tokens * row;
    t.stride_batch = t.heads * t.tokens * row;
    const std::size_t bytes = spec_.dtype == DType::float32 ? 4 : 2;
    // What must not be read is NaN in every format.
    std::vector<std::uint8_t> host(static_cast<std::size_t>(spec_.offset + t.batch * t.stride_batch) * bytes, 0xFF);
    for (std::size_t m = 0; m < matrices.size(); ++m) {
      const auto b = static_cast<std::int64_t>(m) / t.heads;
      const auto h = static_cast<std::int64_t>(m) % t.heads;
      for (std::int64_t i = 0; i < t.tokens; ++i) {
        for (std::int64_t c = 0; c < t.channels; ++c) {
          const float x = matrices[m](static_cast<std::size_t>(i), static_cast<std::size_t>(c));
          auto* to = host.data() + static_cast<std::size_t>(spec_.offset + b * t.stride_batch + h * t.stride_head +
                                                            i * t.stride_token + c) *
                                       bytes;
          const auto wide = std::bit_cast<std::uint32_t>(x);
          const auto half = spec_.dtype == DType::float16 ? fp16_bits(x) : static_cast<std::uint16_t>(wide >> 16U);
          if (bytes == 4) {
            std::memcpy(to, &wide, 4);
          } else {
            std::memcpy(to, &half, 2);
          }
        }
      }
    }
    memory = cuda::DeviceBuffer<std::uint8_t>(host.size(), stream_);
    memory.upload(host);
    t.data = memory.data() + static_cast<std::size_t>(spec_.offset) * bytes;
    return t;
  }

  CallSpec spec_;
  cudaStream_t stream_;
  cuda::DeviceBuffer<std::uint8_t> q_memory_, k_memory_, v_memory_;
};

}  // namespace sage2::testing
