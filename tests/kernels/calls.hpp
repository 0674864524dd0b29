#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "Eigen/Core"
#include "datasets/problem.hpp"
#include "fmt/format.h"
#include "kernels/device_buffer.hpp"
#include "kernels/device_info.hpp"
#include "kernels/device_problem.hpp"
#include "reference/formats.hpp"
#include "reference/smooth.hpp"
#include "tests/reference/problems.hpp"

/// Attention calls of several heads, on the host as the CPU engine wants them and on the device.
namespace sage2::testing::device_calls {

#define SAGE2_NEEDS_GPU() \
  if (const auto list = ::sage2::cuda::find_devices(); list.devices.empty()) GTEST_SKIP() << list.why_none

struct CallSpec {
  std::int64_t batch = 1, q_heads = 2, kv_heads = 2;
  std::int64_t q_len = 70, kv_len = 150, head_dim = 64;
  DType dtype = DType::float16;
  bool nhd = false;
  int mask = 0;  ///< 0: none, 1: causal to the bottom right, 2: to the top left
  float q_bias = 0.5F, k_bias = 1, v_bias = 2, q_spread = 1;
  std::uint64_t seed = 1;

  [[nodiscard]] std::string name() const {
    return fmt::format("batch {} heads {}/{} lengths {}x{} dim {} {}{} mask {}", batch, q_heads, kv_heads, q_len,
                       kv_len, head_dim, to_string(dtype), nhd ? " NHD" : "", mask);
  }
};

/// [batch x heads] matrices and the same values in device memory.
class DeviceTensor {
 public:
  DeviceTensor(const std::vector<Matrix>& heads, std::int64_t batch, DType dtype, bool nhd, cudaStream_t stream) {
    const auto per_batch = static_cast<std::int64_t>(heads.size()) / batch;
    const auto tokens = static_cast<std::int64_t>(heads.front().rows);
    const auto dim = static_cast<std::int64_t>(heads.front().cols);
    view_ = {nullptr, dtype, batch, per_batch, tokens, dim, per_batch * tokens * dim, tokens * dim, dim};
    if (nhd) {
      view_.stride_head = dim;
      view_.stride_token = per_batch * dim;
    }
    const std::size_t size = dtype == DType::float32 ? 4 : 2;
    std::vector<unsigned char> bytes(heads.size() * heads.front().data.size() * size);
    for (std::size_t h = 0; h < heads.size(); ++h) {
      const auto b = static_cast<std::int64_t>(h) / per_batch;
      const auto in_batch = static_cast<std::int64_t>(h) % per_batch;
      for (std::int64_t i = 0; i < tokens; ++i) {
        for (std::int64_t c = 0; c < dim; ++c) {
          const auto at = b * view_.stride_batch + in_batch * view_.stride_head + i * view_.stride_token + c;
          put(bytes.data() + static_cast<std::size_t>(at) * size, dtype,
              heads[h](static_cast<std::size_t>(i), static_cast<std::size_t>(c)));
        }
      }
    }
    memory_ = cuda::DeviceBuffer<unsigned char>(bytes.size(), stream);
    memory_.upload(bytes);
    SAGE2_CUDA_CHECK(cudaStreamSynchronize(stream));
    view_.data = memory_.data();
  }
  [[nodiscard]] const cuda::TensorView& view() const { return view_; }

 private:
  static void put(unsigned char* to, DType dtype, float x) {
    if (dtype == DType::float32) {
      std::memcpy(to, &x, 4);
    } else if (dtype == DType::float16) {
      const Eigen::half h(x);
      std::memcpy(to, &h, 2);
    } else {
      const auto bits = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16U);
      std::memcpy(to, &bits, 2);
    }
  }

  cuda::TensorView view_;
  cuda::DeviceBuffer<unsigned char> memory_;
};

/// Gaussian entries around a mean of each channel, in the call's format. FP32 entries use their whole significand.
inline Matrix call_matrix(std::int64_t rows, std::int64_t cols, DType dtype, Random& random, float spread, float bias) {
  Matrix m(static_cast<std::size_t>(rows), static_cast<std::size_t>(cols));
  std::vector<float> mean(m.cols);
  for (float& x : mean) x = bias * gaussian(random);
  for (std::size_t i = 0; i < m.rows; ++i) {
    for (std::size_t c = 0; c < m.cols; ++c) m(i, c) = mean[c] + spread * gaussian(random);
  }
  round_to_dtype(m.data, dtype);
  return m;
}

class Call {
 public:
  using Change = std::function<void(Matrix&, Matrix&, Matrix&)>;

  /// `change` may edit the Q, K and V of each head (K and V once for each query head that shares them).
  Call(const CallSpec& spec, cudaStream_t stream, const Change& change = {}) {
    Random random(spec.seed);
    const auto many = [&](std::int64_t heads, std::int64_t tokens, float spread, float bias) {
      std::vector<Matrix> out;
      for (std::int64_t h = 0; h < spec.batch * heads; ++h) {
        out.push_back(call_matrix(tokens, spec.head_dim, spec.dtype, random, spread, bias));
      }
      return out;
    };
    auto q = many(spec.q_heads, spec.q_len, spec.q_spread, spec.q_bias);
    auto k = many(spec.kv_heads, spec.kv_len, 1, spec.k_bias);
    auto v = many(spec.kv_heads, spec.kv_len, 1, spec.v_bias);
    const std::size_t ratio = q.size() / k.size();
    for (std::size_t h = 0; change && h < q.size(); ++h) change(q[h], k[h / ratio], v[h / ratio]);
    build(q, k, v, spec.batch, spec.dtype, spec.nhd, stream);
    set_mask(spec.mask > 0, spec.mask == 2 ? CausalAlign::top_left : CausalAlign::bottom_right,
             1.0F / std::sqrt(static_cast<float>(spec.head_dim)));
  }

  Call(const std::vector<Matrix>& q, const std::vector<Matrix>& k, const std::vector<Matrix>& v, std::int64_t batch,
       DType dtype, cudaStream_t stream) {
    build(q, k, v, batch, dtype, false, stream);
  }

  void set_mask(bool is_causal, CausalAlign align, float sm_scale) {
    for (auto& h : heads_) {
      h.is_causal = is_causal;
      h.causal_align = align;
      h.sm_scale = sm_scale;
    }
    device_.is_causal = is_causal;
    device_.causal_align = align;
    device_.sm_scale = sm_scale;
  }

  /// One problem for each query head.
  [[nodiscard]] const std::vector<HeadProblem>& heads() const { return heads_; }
  [[nodiscard]] const cuda::DeviceProblem& device() const { return device_; }
  [[nodiscard]] std::size_t kv_head(std::size_t q_head) const { return q_head / ratio_; }

 private:
  void build(const std::vector<Matrix>& q, const std::vector<Matrix>& k, const std::vector<Matrix>& v,
             std::int64_t batch, DType dtype, bool nhd, cudaStream_t stream) {
    ratio_ = q.size() / k.size();
    for (std::size_t h = 0; h < q.size(); ++h) {
      HeadProblem p;
      p.q = q[h];
      p.k = k[h / ratio_];
      p.v = v[h / ratio_];
      p.dtype = dtype;
      heads_.push_back(std::move(p));
    }
    for (const auto* heads : {&q, &k, &v}) tensors_.emplace_back(*heads, batch, dtype, nhd, stream);
    device_.q = tensors_[0].view();
    device_.k = tensors_[1].view();
    device_.v = tensors_[2].view();
    device_.dtype = dtype;
  }

  std::size_t ratio_ = 1;
  std::vector<HeadProblem> heads_;
  std::vector<DeviceTensor> tensors_;
  cuda::DeviceProblem device_;
};

/// The same bits, or NaN in both (the payload of a NaN is nobody's promise).
inline bool same_bits(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) || (a != a && b != b);
}

/// Compares [rows, cols] values bit for bit; says where the first difference is, what both values are, and how many
/// there are. Empty where all agree.
inline std::string first_difference(const float* device, const float* host, std::size_t rows, std::size_t cols) {
  std::size_t count = 0;
  std::size_t first = 0;
  for (std::size_t i = 0; i < rows * cols; ++i) {
    if (same_bits(device[i], host[i])) continue;
    if (count++ == 0) first = i;
  }
  if (count == 0) return {};
  return fmt::format("{} of {} differ, first at row {}, column {}: device {:.9g} ({:08x}), host {:.9g} ({:08x})", count,
                     rows * cols, first / cols, first % cols, device[first],
                     std::bit_cast<std::uint32_t>(device[first]), host[first],
                     std::bit_cast<std::uint32_t>(host[first]));
}

}  // namespace sage2::testing::device_calls
