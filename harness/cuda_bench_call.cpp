#include "harness/cuda_bench_call.hpp"

#include <cmath>

#include "harness/bench_results.hpp"
#include "kernels/cuda_check.hpp"
#include "kernels/error_stats.hpp"
#include "kernels/exact_attention.hpp"
#include "kernels/noise.hpp"

namespace sage2::cuda {
namespace {

constexpr std::int64_t kRows = 16;

std::size_t elements(const RecordShape& s, std::int64_t heads, std::int64_t length) {
  return static_cast<std::size_t>(s.batch * heads * length * s.head_dim);
}

/// 16 rows of every head, evenly spread, the last one among them.
ErrorMetrics errors_of(const float* o, const double* truth, const RecordShape& s, cudaStream_t stream) {
  const std::int64_t heads = s.batch * s.q_heads;
  const auto row = static_cast<std::size_t>(s.head_dim) * sizeof(float);
  const auto step = static_cast<std::size_t>(s.q_len / kRows);
  DeviceBuffer<float> sampled(static_cast<std::size_t>(heads * kRows * s.head_dim), stream);
  SAGE2_CUDA_CHECK(cudaMemcpy2DAsync(sampled.data(), row, o + (step - 1) * static_cast<std::size_t>(s.head_dim),
                                     step * row, row, static_cast<std::size_t>(heads * kRows), cudaMemcpyDeviceToDevice,
                                     stream));
  ErrorStats all;
  for (const auto& head : error_stats(truth, sampled.data(), heads, kRows, s.head_dim, false, stream)) {
    all.merge(head.stats);
  }
  return all.metrics();
}

}  // namespace

BenchTensors::BenchTensors(const RecordShape& shape, cudaStream_t stream)
    : shape_(shape),
      q_(elements(shape, shape.q_heads, shape.q_len), stream),
      k_(elements(shape, shape.kv_heads, shape.kv_len), stream),
      v_(elements(shape, shape.kv_heads, shape.kv_len), stream),
      o_(q_.size(), stream) {
  const auto view = [&](DeviceBuffer<std::uint16_t>& x, std::int64_t heads, std::int64_t tokens, float bias,
                        std::uint32_t seed) {
    fill_noise(x.data(), DType::bfloat16, shape.batch * heads, tokens, shape.head_dim, bias, seed, stream);
    return TensorView{.data = x.data(),
                      .dtype = DType::bfloat16,
                      .batch = shape.batch,
                      .heads = heads,
                      .tokens = tokens,
                      .channels = shape.head_dim,
                      .stride_batch = heads * tokens * shape.head_dim,
                      .stride_head = tokens * shape.head_dim,
                      .stride_token = shape.head_dim};
  };
  problem_.q = view(q_, shape.q_heads, shape.q_len, 0.5F, 1);
  problem_.k = view(k_, shape.kv_heads, shape.kv_len, 2.0F, 2);
  problem_.v = view(v_, shape.kv_heads, shape.kv_len, 0.3F, 3);
  problem_.dtype = DType::bfloat16;
  problem_.is_causal = shape.is_causal;
  problem_.sm_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(shape.head_dim)));
}

BenchCall::BenchCall(BenchTensors& tensors, const sm90::Plan& plan, cudaStream_t stream)
    : tensors_(tensors),
      plan_(plan),
      parts_(sm90::plan_workspace(tensors.problem(), plan.prepare, false)),
      memory_(parts_.bytes + sm90::kWorkspaceAlignment, stream),
      workspace_(sm90::align_workspace(memory_.data())),
      stream_(stream) {}

void BenchCall::prepare() {
  sm90::prepare(tensors_.problem(), plan_.prepare, parts_, workspace_, false, stream_);
}

void BenchCall::attend_into(void* o, sm90::OutType type, sm90::Codes v_codes) {
  auto options = plan_.prepare;
  options.v_codes = v_codes;
  auto params = sm90::attention_params(tensors_.problem(), options, parts_, workspace_, false);
  params.o = o;
  params.o_type = type;
  sm90::attention(params, plan_.kernel, stream_);
}

void BenchCall::attend() {
  attend_into(tensors_.out(), sm90::OutType::bf16, sm90::Codes::chosen);
}

void BenchCall::attend_alone() {
  attend_into(tensors_.out(), sm90::OutType::bf16, sm90::Codes::prepared);
}

void BenchCall::rewind() {
  const auto params = sm90::attention_params(tensors_.problem(), plan_.prepare, parts_, workspace_, false);
  SAGE2_CUDA_CHECK(cudaMemsetAsync(params.next_tile, 0, sizeof(int), stream_));
}

void BenchCall::run_into(float* o) {
  prepare();
  attend_into(o, sm90::OutType::fp32, sm90::Codes::chosen);
}

Verdict verify(BenchTensors& tensors, const Variant& variant, const sm90::Plan& plan, cudaStream_t stream) {
  const RecordShape& s = tensors.shape();
  const std::int64_t heads = s.batch * s.q_heads;
  std::vector<std::uint32_t> rows;
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t i = 1; i <= kRows; ++i) rows.push_back(static_cast<std::uint32_t>(i * (s.q_len / kRows) - 1));
  }
  DeviceBuffer<std::uint32_t> device_rows(rows.size(), stream);
  device_rows.upload(rows);
  DeviceBuffer<double> truth(rows.size() * static_cast<std::size_t>(s.head_dim), stream);
  exact_attention(tensors.problem(), {device_rows.data(), kRows}, truth.data(), nullptr, stream);

  DeviceBuffer<float> o(elements(s, s.q_heads, s.q_len), stream);
  BenchCall(tensors, plan, stream).run_into(o.data());
  Verdict verdict;
  verdict.errors = errors_of(o.data(), truth.data(), s, stream);
  BenchCall(tensors, sm90::plan(variant, true), stream).run_into(o.data());
  const ErrorMetrics accurate = errors_of(o.data(), truth.data(), s, stream);

  verdict.why_not = why_not_timed(verdict.errors, accurate, variant.q == Format::int8 ? 0.06 : 0.25);
  return verdict;
}

}  // namespace sage2::cuda
