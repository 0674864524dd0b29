// Milliseconds of the emulation on the GPU, quantisation and loop apart: cuda_emulate [heads tokens head_dim
// [variants]] Without arguments: a video model's call (24 heads of 17,776 tokens) and a small one.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "Eigen/Core"
#include "kernels/device_buffer.hpp"
#include "kernels/device_info.hpp"
#include "kernels/emulate.hpp"
#include "reference/variant.hpp"

namespace {

using namespace sage2;
using cuda::DeviceBuffer;

class Event {
 public:
  Event() { SAGE2_CUDA_CHECK(cudaEventCreate(&event_)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { (void)cudaEventDestroy(event_); }
  void record(cudaStream_t stream) const { SAGE2_CUDA_CHECK(cudaEventRecord(event_, stream)); }
  /// Milliseconds since an earlier one.
  [[nodiscard]] float since(const Event& before) const {
    float ms = 0;
    SAGE2_CUDA_CHECK(cudaEventElapsedTime(&ms, before.event_, event_));
    return ms;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// FP16 values of unit variance around biased channels, from a linear congruence: enough for timing.
DeviceBuffer<Eigen::half> random_tensor(std::size_t size, std::uint32_t seed, cudaStream_t stream) {
  std::vector<Eigen::half> values(size);
  std::uint32_t state = seed;
  for (auto& v : values) {
    float sum = -2;
    for (int i = 0; i < 4; ++i) {
      state = state * 1664525U + 1013904223U;
      sum += static_cast<float>(state >> 8U) * 0x1p-24F;
    }
    v = Eigen::half(sum * 1.7F);
  }
  DeviceBuffer<Eigen::half> buffer(size, stream);
  buffer.upload(values);
  SAGE2_CUDA_CHECK(cudaStreamSynchronize(stream));
  return buffer;
}

void time_shape(std::int64_t heads, std::int64_t tokens, std::int64_t dim, const std::vector<std::string>& variants) {
  const cuda::Stream stream;
  const auto size = static_cast<std::size_t>(heads * tokens * dim);
  DeviceBuffer<Eigen::half> tensors[3];
  cuda::DeviceProblem problem;
  cuda::TensorView* const views[3] = {&problem.q, &problem.k, &problem.v};
  for (std::uint32_t i = 0; i < 3; ++i) {
    tensors[i] = random_tensor(size, i + 1, stream.get());
    *views[i] = {tensors[i].data(), DType::float16, 1, heads, tokens, dim, heads * tokens * dim, tokens * dim, dim};
  }
  problem.sm_scale = 1.0F / std::sqrt(static_cast<float>(dim));
  DeviceBuffer<float> o(size, stream.get());
  std::printf("%lld heads, %lld tokens, dim %lld\n", static_cast<long long>(heads), static_cast<long long>(tokens),
              static_cast<long long>(dim));
  for (const auto& text : variants) {
    const auto variant = parse_variant(text);
    float best[2] = {INFINITY, INFINITY};
    // Small problems: the first calls also fill the memory pool.
    for (int repeat = 0; repeat < (tokens > 4096 ? 2 : 10); ++repeat) {
      const Event start;
      const Event middle;
      const Event end;
      start.record(stream.get());
      const auto operands = cuda::quantize(problem, variant, stream.get());
      middle.record(stream.get());
      cuda::emulate(problem, variant, operands, {}, o.data(), nullptr, stream.get());
      end.record(stream.get());
      stream.synchronize();
      best[0] = std::min(best[0], middle.since(start));
      best[1] = std::min(best[1], end.since(middle));
    }
    std::printf("  %-44s quantise %8.3f ms, loop %9.3f ms\n", text.c_str(), static_cast<double>(best[0]),
                static_cast<double>(best[1]));
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const auto list = cuda::find_devices();
  if (list.devices.empty()) {
    std::printf("%s\n", list.why_none.c_str());
    return 4;
  }
  // Keep freed memory for the next call instead of giving it back at each synchronisation.
  cudaMemPool_t pool = nullptr;
  SAGE2_CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool, 0));
  std::uint64_t keep = UINT64_MAX;
  SAGE2_CUDA_CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
  std::vector<std::string> variants{"sage2-4b", "sage2-4b-v1", "int4",       "sage1",
                                    "fp16",     "exact",       "sage2pp-8b", "fa3-fp8"};
  if (argc >= 4) {
    if (argc > 4) variants.assign(argv + 4, argv + argc);
    time_shape(std::atoll(argv[1]), std::atoll(argv[2]), std::atoll(argv[3]), variants);
    return 0;
  }
  time_shape(2, 1024, 64, variants);
  time_shape(24, 17776, 64, variants);
}
