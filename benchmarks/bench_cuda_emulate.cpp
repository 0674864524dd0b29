#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "kernels/device_buffer.hpp"
#include "kernels/device_info.hpp"
#include "kernels/emulate.hpp"
#include "kernels/noise.hpp"
#include "reference/variant.hpp"

/// The emulation on the GPU: quantisers and loop of a whole call, by CUDA events. `loop_ms` is the loop alone.
namespace sage2::cuda {
namespace {

const std::vector<std::string>& variants() {
  static const std::vector<std::string> list{
      "sage2-4b", "sage2-4b-v1", "int4",    "sage1",       "fp16",
      "exact",    "sage2pp-8b",  "fa3-fp8", "fp16@hopper", "fp16:qk=bf16,p=bf16,v=bf16"};
  return list;
}

class Event {
 public:
  Event() { SAGE2_CUDA_CHECK(cudaEventCreate(&event_)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
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

/// Arguments: index of the variant, heads, tokens, head dim.
void emulation(benchmark::State& state) {
  if (const auto found = find_devices(); found.devices.empty()) return state.SkipWithError(found.why_none.c_str());
  const auto& name = variants()[static_cast<std::size_t>(state.range(0))];
  const std::int64_t heads = state.range(1);
  const std::int64_t n = state.range(2);
  const std::int64_t d = state.range(3);
  state.SetLabel(name);
  const auto variant = parse_variant(name);
  const Stream stream;
  const auto size = static_cast<std::size_t>(heads * n * d);
  DeviceBuffer<std::uint16_t> memory[3];
  DeviceProblem problem;
  TensorView* const views[3] = {&problem.q, &problem.k, &problem.v};
  for (std::uint32_t i = 0; i < 3; ++i) {
    memory[i] = DeviceBuffer<std::uint16_t>(size, stream.get());
    fill_noise(memory[i].data(), DType::float16, heads, n, d, 1, i, stream.get());
    *views[i] = {memory[i].data(), DType::float16, 1, heads, n, d, heads * n * d, n * d, d};
  }
  problem.sm_scale = 1.0F / std::sqrt(static_cast<float>(d));
  DeviceBuffer<float> o(size, stream.get());
  Event start;
  Event middle;
  Event end;
  double loop = 0;
  const auto run = [&] {
    start.record(stream);
    const auto operands = quantize(problem, variant, stream.get());
    middle.record(stream);
    emulate(problem, variant, operands, {}, o.data(), nullptr, stream.get());
    end.record(stream);
    return end.seconds_since(start);
  };
  run();  // fills the pool of memory
  for (auto _ : state) {
    state.SetIterationTime(run());
    loop += end.seconds_since(middle);
  }
  state.counters["loop_ms"] = 1e3 * loop / static_cast<double>(state.iterations());
}
BENCHMARK(emulation)
    ->ArgNames({"variant", "heads", "n", "d"})
    ->ArgsProduct({benchmark::CreateDenseRange(0, 9, 1), {24}, {17776}, {64}})
    ->ArgsProduct({benchmark::CreateDenseRange(0, 9, 1), {2}, {1024}, {64}})
    ->ArgsProduct({{0, 4, 5}, {32}, {4096}, {128}})
    ->UseManualTime()
    ->MinTime(0.2)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sage2::cuda
