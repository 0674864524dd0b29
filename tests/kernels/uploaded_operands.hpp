#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/quantize.hpp"
#include "reference/quantize.hpp"
#include "tests/reference/problems.hpp"

/// Many heads on the device, quantised by the CPU engine: what a kernel needs to be tested apart from the device's
/// quantisers.
namespace sage2::cuda::testing {

/// One batch entry. Query head h attends to key/value head h / (q_heads / kv_heads).
struct ManyHeads {
  std::vector<HeadProblem> heads;  ///< one a query head
  std::size_t kv_heads = 1;

  /// Shapes and mask; the tensors themselves stay on the host.
  [[nodiscard]] DeviceProblem device_problem() const {
    const auto& first = heads.front();
    DeviceProblem p;
    p.q.heads = static_cast<std::int64_t>(heads.size());
    p.q.tokens = static_cast<std::int64_t>(first.q.rows);
    p.k.heads = p.v.heads = static_cast<std::int64_t>(kv_heads);
    p.k.tokens = p.v.tokens = static_cast<std::int64_t>(first.k.rows);
    p.q.channels = p.k.channels = p.v.channels = static_cast<std::int64_t>(first.q.cols);
    p.is_causal = first.is_causal;
    p.causal_align = first.causal_align;
    p.sm_scale = first.sm_scale;
    return p;
  }
};

inline ManyHeads random_heads(const sage2::testing::ProblemSpec& spec, std::size_t q_heads, std::size_t kv_heads) {
  ManyHeads many;
  many.kv_heads = kv_heads;
  for (std::size_t h = 0; h < q_heads; ++h) {
    auto of_head = spec;
    of_head.seed = spec.seed + 1000 * h;
    many.heads.push_back(sage2::testing::random_problem(of_head));
    const std::size_t shared = h / (q_heads / kv_heads) * (q_heads / kv_heads);
    many.heads.back().k = many.heads[shared].k;
    many.heads.back().v = many.heads[shared].v;
  }
  return many;
}

template <class T>
DeviceBuffer<T> uploaded(const std::vector<T>& from, cudaStream_t stream) {
  DeviceBuffer<T> to(from.size(), stream);
  to.upload(from);
  return to;
}

/// Operands of all heads by sage2::quantize. Of one part of V, as every kernel for tensor cores wants them.
inline DeviceOperands quantize_on_cpu(const ManyHeads& many, const Variant& variant, cudaStream_t stream) {
  std::vector<float> q;
  std::vector<float> q_scale;
  std::vector<float> k;
  std::vector<float> k_scale;
  std::vector<float> delta_s;
  std::vector<float> v;
  std::vector<float> v_scale;
  std::vector<float> v_mean;
  const auto append = [](std::vector<float>& to, const std::vector<float>& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  DeviceOperands out;
  out.v.emplace_back();
  const std::size_t group = many.heads.size() / many.kv_heads;
  for (std::size_t h = 0; h < many.heads.size(); ++h) {
    const Operands in = sage2::quantize(many.heads[h], variant);
    append(q, in.q.codes.data);
    append(q_scale, in.q.scale);
    append(delta_s, in.delta_s.data);
    if (h % group != 0) continue;
    append(k, in.k.codes.data);
    append(k_scale, in.k.scale);
    append(v, in.v.front().codes.data);
    append(v_scale, in.v.front().scale.data);
    append(v_mean, in.v_mean);
    out.q.tokens = static_cast<std::int64_t>(in.q.codes.rows);
    out.k.tokens = static_cast<std::int64_t>(in.k.codes.rows);
    out.q.depth = out.k.depth = static_cast<std::int64_t>(in.q.codes.cols);
    out.v.front().format = in.v.front().format;
    out.v.front().tokens = static_cast<std::int64_t>(in.v.front().codes.rows);
    out.v.front().count = static_cast<std::int64_t>(in.v.front().codes.cols);
    out.v.front().scale_rows = static_cast<std::int64_t>(in.v.front().scale.rows);
  }
  out.q.codes = uploaded(q, stream);
  out.q.scale = uploaded(q_scale, stream);
  out.k.codes = uploaded(k, stream);
  out.k.scale = uploaded(k_scale, stream);
  out.delta_s = uploaded(delta_s, stream);
  out.v.front().codes = uploaded(v, stream);
  out.v.front().scale = uploaded(v_scale, stream);
  out.v_mean = uploaded(v_mean, stream);
  return out;
}

}  // namespace sage2::cuda::testing
