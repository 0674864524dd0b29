#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "benchmark/benchmark.h"
#include "kernels/device_buffer.hpp"
#include "kernels/device_info.hpp"
#include "kernels/error_stats.hpp"
#include "kernels/exact_attention.hpp"
#include "tests/reference/problems.hpp"

/// The FP64 reference and the metrics on the GPU. Compare `tflops` with FP64 matrix products of the same GPU, for
/// example torch.matmul of 8192 x 8192, and `gb_per_s` with its memory.
namespace sage2::cuda {
namespace {

class Event {
 public:
  Event() { SAGE2_CUDA_CHECK(cudaEventCreate(&event_)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  Event(Event&&) = delete;
  Event& operator=(Event&&) = delete;
  ~Event() { (void)cudaEventDestroy(event_); }
  void record(const Stream& stream) { SAGE2_CUDA_CHECK(cudaEventRecord(event_, stream.get())); }
  [[nodiscard]] double seconds_since(const Event& start) const {
    SAGE2_CUDA_CHECK(cudaEventSynchronize(event_));
    float ms = 0;
    SAGE2_CUDA_CHECK(cudaEventElapsedTime(&ms, start.event_, event_));
    return 1e-3 * ms;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

bool no_gpu(benchmark::State& state) {
  const auto found = find_devices();
  if (found.devices.empty()) state.SkipWithError(found.why_none.c_str());
  return found.devices.empty();
}

/// A tensor [1, heads, tokens, channels] of Gaussian FP16 values, as 16-bit codes.
TensorView random_tensor(std::int64_t heads, std::int64_t tokens, std::int64_t channels, std::uint64_t seed,
                         DeviceBuffer<std::uint16_t>& memory, const Stream& stream) {
  testing::Random random(seed);
  // One head's worth is enough: all heads have the same values.
  std::vector<std::uint16_t> host(static_cast<std::size_t>(tokens * channels));
  for (auto& x : host) {
    const float value = testing::gaussian(random);
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const bool tiny = std::abs(value) < 0x1p-14F;
    x = static_cast<std::uint16_t>(((bits >> 16U) & 0x8000U) |
                                   (tiny ? 0 : ((bits & 0x7FFFFFFFU) >> 13U) - (112U << 10U)));
  }
  memory = DeviceBuffer<std::uint16_t>(host.size() * static_cast<std::size_t>(heads), stream.get());
  for (std::int64_t h = 0; h < heads; ++h) {
    SAGE2_CUDA_CHECK(cudaMemcpyAsync(memory.data() + static_cast<std::size_t>(h) * host.size(), host.data(),
                                     host.size() * 2, cudaMemcpyHostToDevice, stream.get()));
  }
  return {memory.data(),     DType::float16, 1, heads, tokens, channels, heads * tokens * channels,
          tokens * channels, channels};
}

/// Arguments: sequence length, head dim, causal, heads.
void exact(benchmark::State& state) {
  if (no_gpu(state)) return;
  const std::int64_t n = state.range(0);
  const std::int64_t d = state.range(1);
  const std::int64_t heads = state.range(3);
  const Stream stream;
  DeviceBuffer<std::uint16_t> memory[3];
  DeviceProblem p;
  p.q = random_tensor(heads, n, d, 1, memory[0], stream);
  p.k = random_tensor(heads, n, d, 2, memory[1], stream);
  p.v = random_tensor(heads, n, d, 3, memory[2], stream);
  p.is_causal = state.range(2) != 0;
  p.sm_scale = 1.0F / std::sqrt(static_cast<float>(d));
  DeviceBuffer<double> o(static_cast<std::size_t>(heads * n * d), stream.get());
  DeviceBuffer<double> lse(static_cast<std::size_t>(heads * n), stream.get());
  exact_attention(p, {}, o.data(), lse.data(), stream.get());

  Event start;
  Event end;
  double seconds = 0;
  for (auto _ : state) {
    start.record(stream);
    exact_attention(p, {}, o.data(), lse.data(), stream.get());
    end.record(stream);
    const double one = end.seconds_since(start);
    state.SetIterationTime(one);
    seconds += one;
  }
  const double keys = p.is_causal ? 0.5 * static_cast<double>(n + 1) : static_cast<double>(n);
  const double flop = 4.0 * static_cast<double>(heads * n * d) * keys;
  state.counters["tflops"] = 1e-12 * flop * static_cast<double>(state.iterations()) / seconds;
}
BENCHMARK(exact)
    ->ArgNames({"n", "d", "causal", "heads"})
    ->Args({8192, 128, 0, 8})
    ->Args({8192, 128, 1, 8})
    ->Args({8192, 64, 0, 8})
    ->Args({8192, 64, 1, 8})
    ->Args({4096, 256, 0, 8})
    ->Args({8192, 80, 0, 8})
    ->Args({1024, 128, 0, 32})
    ->Args({1024, 64, 0, 2})
    ->Args({17776, 64, 0, 4})
    ->UseManualTime()
    ->MinTime(0.3)
    ->Unit(benchmark::kMillisecond);

/// Arguments: heads, rows, head dim, row sums wanted. Real time: what the host does is part of it.
void stats(benchmark::State& state) {
  if (no_gpu(state)) return;
  const std::int64_t heads = state.range(0);
  const std::int64_t rows = state.range(1);
  const std::int64_t d = state.range(2);
  const Stream stream;
  testing::Random random(1);
  std::vector<double> reference(static_cast<std::size_t>(rows * d));
  std::vector<float> output(reference.size());
  for (std::size_t i = 0; i < reference.size(); ++i) {
    reference[i] = testing::gaussian(random);
    output[i] = static_cast<float>(reference[i]) + 0.03F * testing::gaussian(random);
  }
  DeviceBuffer<double> device_reference(reference.size() * static_cast<std::size_t>(heads), stream.get());
  DeviceBuffer<float> device_output(device_reference.size(), stream.get());
  for (std::int64_t h = 0; h < heads; ++h) {
    const auto at = static_cast<std::size_t>(h) * reference.size();
    SAGE2_CUDA_CHECK(cudaMemcpyAsync(device_reference.data() + at, reference.data(), reference.size() * sizeof(double),
                                     cudaMemcpyHostToDevice, stream.get()));
    SAGE2_CUDA_CHECK(cudaMemcpyAsync(device_output.data() + at, output.data(), output.size() * sizeof(float),
                                     cudaMemcpyHostToDevice, stream.get()));
  }
  for (auto _ : state) {
    const auto errors =
        error_stats(device_reference.data(), device_output.data(), heads, rows, d, state.range(3) != 0, stream.get());
    benchmark::DoNotOptimize(errors.data());
  }
  const double bytes = 12.0 * static_cast<double>(heads * rows * d);
  state.counters["gb_per_s"] =
      benchmark::Counter(1e-9 * bytes * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}
BENCHMARK(stats)
    ->ArgNames({"heads", "rows", "d", "row_sums"})
    ->Args({24, 17776, 128, 0})
    ->Args({30, 17776, 64, 0})
    ->Args({2, 1024, 64, 0})
    ->Args({24, 1024, 128, 1})
    ->UseRealTime()
    ->MinTime(0.2)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sage2::cuda
