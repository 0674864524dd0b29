#ifdef SAGE2_HAS_BENCH

#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iostream>
#include <map>
#include <numeric>

#include "benchmark/benchmark.h"
#include "datasets/error.hpp"
#include "fmt/format.h"
#include "harness/bench.hpp"
#include "harness/bench_results.hpp"
#include "harness/cuda_bench_call.hpp"
#include "harness/gpu_state.hpp"
#include "harness/version.hpp"
#include "kernels/cuda_check.hpp"
#include "kernels/device_info.hpp"
#include "reports/bench.hpp"

namespace sage2 {
namespace {

using cuda::BenchCall;
using cuda::BenchTensors;
using cuda::Stream;

constexpr std::int64_t kHeads = 32;
constexpr std::int64_t kTokens = 32768;  ///< batch x length
constexpr std::size_t kWarmUp = 5;

/// One thing to time.
struct Case {
  std::string name;
  std::string written;  ///< the variant
  Variant variant;
  std::vector<std::string> stands_for;
  bool accurate = false;
  bool whole = true;
  RecordShape shape;
};

RecordShape shape_of(std::int64_t length, std::int64_t dim, bool is_causal) {
  return {.batch = kTokens / length,
          .q_heads = kHeads,
          .kv_heads = kHeads,
          .q_len = length,
          .kv_len = length,
          .head_dim = dim,
          .is_causal = is_causal};
}

std::vector<Case> attention_cases() {
  std::vector<Case> cases;
  for (const std::int64_t dim : {64, 128, 256}) {
    for (const bool causal : {false, true}) {
      for (std::int64_t n = 1024; n <= 32768; n *= 2) {
        for (const char* preset : {"sage2-8b", "sage2-4b"}) {
          for (const bool whole : {true, false}) {
            cases.push_back({.name = fmt::format("attention/{}@hopper/d:{}/causal:{}/n:{}/{}", preset, dim,
                                                 causal ? 1 : 0, n, whole ? "whole" : "kernel"),
                             .written = fmt::format("{}@hopper", preset),
                             .variant = parse_variant(fmt::format("{}@hopper", preset)),
                             .stands_for = {preset},
                             .whole = whole,
                             .shape = shape_of(n, dim, causal)});
          }
        }
      }
    }
  }
  return cases;
}

/// What each technique of the paper costs: from scales per warp without smoothing of Q, one by one. One level of
/// accumulation may have no fast kernel; then both levels are timed with the accurate kernels.
std::vector<Case> overhead_cases() {
  struct Technique {
    const char* name;
    const char* settings;
    bool accurate;
  };
  const bool slow = cuda::sm90::plan(parse_variant("sage2-4b@hopper:smooth_q=off,pv_accum=fp32")).kernel.accurate;
  const std::array techniques{Technique{"per_warp", ":qk_gran=per_warp,smooth_q=off", false},
                              Technique{"per_thread", ":smooth_q=off", false},
                              Technique{"smooth_q", "", false},
                              Technique{"smooth_q_and_v", ":smooth_v=on", false},
                              Technique{"one_level", ":smooth_q=off,pv_accum=fp32", slow},
                              Technique{"two_level", ":smooth_q=off", slow}};
  std::vector<Case> cases;
  for (const std::int64_t dim : {64, 128}) {
    for (const std::int64_t n : {4096, 32768}) {
      for (const auto& t : techniques) {
        for (const bool whole : {true, false}) {
          cases.push_back({.name = fmt::format("overhead/{}/d:{}/n:{}/{}", t.name, dim, n, whole ? "whole" : "kernel"),
                           .written = fmt::format("sage2-4b@hopper{}", t.settings),
                           .variant = parse_variant(fmt::format("sage2-4b@hopper{}", t.settings)),
                           .stands_for = {},
                           .accurate = t.accurate,
                           .whole = whole,
                           .shape = shape_of(n, dim, false)});
        }
      }
    }
  }
  return cases;
}

/// Samples of one part of a call, and how many of them Google Benchmark has been given.
struct Samples {
  std::vector<double> ms, clocks;
  std::size_t used = 0;
};
/// Both are taken in turn: under the chip's power limit clocks fall while calls are timed, and what one part costs
/// beside the other must not depend on which comes first.
struct Parts {
  Samples whole, kernel;
};

/// Times cases, holding the tensors of the last shape and the call of the last variant.
class Bench {
 public:
  Bench(const GpuMonitor& monitor, std::size_t l2_bytes) : monitor_(monitor), flush_(4 * l2_bytes, stream_.get()) {}

  void time(benchmark::State& state, const Case& c) {
    if (const auto& why = ready(c); !why.empty()) {
      state.SkipWithError(fmt::format("not timed: {}", why).c_str());
      failed_ = true;
      return;
    }
    BenchResult& result = results_.at(c.name);
    Parts& parts = parts_[call_key_];
    Samples& samples = c.whole ? parts.whole : parts.kernel;
    const auto wanted = static_cast<std::size_t>(state.max_iterations);
    if (samples.used + wanted > samples.ms.size()) measure(parts, wanted);
    for (auto _ : state) {
      result.ms.push_back(samples.ms.at(samples.used++));
      state.SetIterationTime(result.ms.back() * 1e-3);
    }
    const auto& clocks = samples.clocks;
    if (!clocks.empty()) {
      result.sm_clock_mhz = std::accumulate(clocks.begin(), clocks.end(), 0.0) / static_cast<double>(clocks.size());
    }
    report(state, result);
  }

  [[nodiscard]] bool failed() const { return failed_; }
  /// In the order in which they were registered.
  [[nodiscard]] std::vector<BenchResult> results(const std::vector<Case>& cases) const {
    std::vector<BenchResult> all;
    for (const auto& c : cases) {
      const auto it = results_.find(c.name);
      if (it != results_.end() && !it->second.ms.empty()) all.push_back(it->second);
    }
    return all;
  }
  [[nodiscard]] std::size_t flush_bytes() const { return flush_.size(); }

 private:
  static std::string key_of(const RecordShape& s) {
    return fmt::format("{} {} {} {}", s.batch, s.q_len, s.head_dim, s.is_causal);
  }

  /// Makes tensors and call; the reason why the variant must not be timed on them, or "".
  const std::string& ready(const Case& c) {
    const auto shape = key_of(c.shape);
    if (shape != tensors_key_) {
      call_.reset();
      tensors_.reset();
      stream_.synchronize();
      tensors_ = std::make_unique<BenchTensors>(c.shape, stream_.get());
      tensors_key_ = shape;
      call_key_.clear();
    }
    auto plan = cuda::sm90::plan(c.variant, c.accurate);
    const auto key = fmt::format("{} {} {}", shape, canonical(c.variant), plan.kernel.accurate);
    auto verdict = verdicts_.find(key);
    if (verdict == verdicts_.end()) {
      verdict = verdicts_.emplace(key, verify(*tensors_, c.variant, plan, stream_.get())).first;
    }
    if (key != call_key_) {
      call_.reset();
      call_ = std::make_unique<BenchCall>(*tensors_, plan, stream_.get());
      call_key_ = key;
    }
    std::string part = c.whole ? "" : "kernel alone";
    if (plan.kernel.accurate) part += part.empty() ? "accurate kernel" : ", accurate";
    results_.try_emplace(c.name, BenchResult{.variant = canonical(c.variant),
                                             .written = c.written,
                                             .stands_for = c.stands_for,
                                             .part = std::move(part),
                                             .shape = c.shape,
                                             .ms = {},
                                             .cos_sim = verdict->second.errors.cos_sim,
                                             .rel_l1 = verdict->second.errors.rel_l1});
    return verdict->second.why_not;
  }

  /// New samples of both parts.
  void measure(Parts& parts, std::size_t count) {
    parts = {};
    const auto sample = [&](Samples& to, bool whole, bool warm) {
      const double ms = once(whole);
      if (!warm) return;
      to.ms.push_back(ms);
      if (const auto now = monitor_.state()) to.clocks.push_back(now->sm_clock_mhz);
    };
    for (std::size_t i = 0; i < kWarmUp + count; ++i) {
      sample(parts.whole, true, i >= kWarmUp);
      sample(parts.kernel, false, i >= kWarmUp);
    }
  }

  /// Milliseconds of one call that finds nothing of its own in L2. Enqueued while the flush runs. The kernel alone
  /// comes after a whole call.
  double once(bool whole) {
    flush_.zero();
    if (!whole) call_->rewind();
    SAGE2_CUDA_CHECK(cudaEventRecord(start_.event, stream_.get()));
    if (whole) {
      call_->prepare();
      call_->attend();
    } else {
      call_->attend_alone();
    }
    SAGE2_CUDA_CHECK(cudaEventRecord(stop_.event, stream_.get()));
    SAGE2_CUDA_CHECK(cudaEventSynchronize(stop_.event));
    float ms = 0;
    SAGE2_CUDA_CHECK(cudaEventElapsedTime(&ms, start_.event, stop_.event));
    return static_cast<double>(ms);
  }

  static void report(benchmark::State& state, const BenchResult& r) {
    const double median = quantile(r.ms, 0.5);
    auto& c = state.counters;
    c["TOPS"] = attention_ops(r.shape) / median * 1e-9;
    c["median_ms"] = median;
    c["p10_ms"] = quantile(r.ms, 0.1);
    c["p90_ms"] = quantile(r.ms, 0.9);
    c["rel_l1"] = r.rel_l1;
    if (r.sm_clock_mhz > 0) c["sm_mhz"] = r.sm_clock_mhz;
    state.SetLabel(r.name());
  }

  struct Event {
    cudaEvent_t event = nullptr;
    Event() { SAGE2_CUDA_CHECK(cudaEventCreate(&event)); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    ~Event() { (void)cudaEventDestroy(event); }
  };

  const GpuMonitor& monitor_;
  Stream stream_;
  Event start_, stop_;
  cuda::DeviceBuffer<char> flush_;
  std::unique_ptr<BenchTensors> tensors_;
  std::unique_ptr<BenchCall> call_;
  std::string tensors_key_, call_key_;
  std::map<std::string, cuda::Verdict> verdicts_;
  std::map<std::string, Parts> parts_;  ///< by call
  std::map<std::string, BenchResult> results_;
  bool failed_ = false;
};

nlohmann::json state_json(const GpuMonitor& monitor) {
  const auto s = monitor.state();
  if (!s) return nullptr;
  return {{"sm_clock_mhz", s->sm_clock_mhz},
          {"memory_clock_mhz", s->memory_clock_mhz},
          {"temperature_c", s->temperature_c},
          {"power_w", s->power_w}};
}

cuda::DeviceInfo hopper() {
  const auto list = cuda::find_devices();
  for (const auto& d : list.devices) {
    if (d.major == 9 && d.minor == 0) return d;
  }
  if (list.devices.empty()) throw DeviceError(fmt::format("bench: {}", list.why_none));
  const auto& d = list.devices.front();
  throw DeviceError(
      fmt::format("bench: {} has compute capability {}.{}; the kernels that bench times are for 9.0 (Hopper)", d.name,
                  d.major, d.minor));
}

nlohmann::json provenance_of(const cuda::DeviceInfo& device, const GpuMonitor& monitor) {
  const RunInfo info = machine_info();
  return {{"command", command_line()},
          {"version", info.version},
          {"commit", info.commit},
          {"dirty", info.dirty},
          {"compiler", info.compiler},
          {"started", info.started},
          {"gpu", device.name},
          {"gpu_uuid", monitor.uuid()},
          {"multiprocessors", device.multiprocessors},
          {"driver", monitor.driver()},
          {"cuda_driver", device.driver},
          {"cuda_runtime", fmt::format("{}.{}", CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10)},
          {"most_sm_clock_mhz", monitor.most_sm_clock_mhz()},
          {"power_limit_w", monitor.power_limit_w()},
          {"tensors", "BF16, N(0, 1) and a bias a channel from N(0, b^2): b = 0.5 (Q), 2 (K), 0.3 (V)"},
          {"operations", "4 x batch x q_heads x q_len x kv_len x head_dim, halved when causal"},
          {"time",
           "median of CUDA-event times of calls that find nothing in L2; the whole call includes smoothing and "
           "quantisation"}};
}

}  // namespace

int run_bench(const BenchOptions& options) {
  const auto device = hopper();
  SAGE2_CUDA_CHECK(cudaSetDevice(device.index));
  std::array<char, 32> bus_id{};
  SAGE2_CUDA_CHECK(cudaDeviceGetPCIBusId(bus_id.data(), bus_id.size(), device.index));
  const GpuMonitor monitor(bus_id.data());
  int l2_bytes = 0;
  SAGE2_CUDA_CHECK(cudaDeviceGetAttribute(&l2_bytes, cudaDevAttrL2CacheSize, device.index));
  auto provenance = provenance_of(device, monitor);
  for (const char* key : {"commit", "gpu", "gpu_uuid", "driver"}) {
    benchmark::AddCustomContext(key, provenance.at(key).get<std::string>());
  }

  Bench bench(monitor, static_cast<std::size_t>(l2_bytes));
  auto cases = attention_cases();
  for (auto& c : overhead_cases()) cases.push_back(std::move(c));
  for (const auto& c : cases) {
    benchmark::RegisterBenchmark(c.name.c_str(), [&bench, &c](benchmark::State& state) { bench.time(state, c); })
        ->Iterations(options.samples)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
  std::vector<std::string> words{"sage2-eval bench"};
  words.insert(words.end(), options.google_flags.begin(), options.google_flags.end());
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  int argc = static_cast<int>(words.size());
  benchmark::Initialize(&argc, argv.data());
  if (argc > 1) throw UsageError(fmt::format("bench: unknown argument {}", argv[1]));

  provenance["before"] = state_json(monitor);
  benchmark::ConsoleReporter console(isatty(STDOUT_FILENO) != 0 ? benchmark::ConsoleReporter::OO_ColorTabular
                                                                : benchmark::ConsoleReporter::OO_Tabular);
  console.SetOutputStream(options.json ? &std::cerr : &std::cout);
  console.SetErrorStream(&std::cerr);
  benchmark::RunSpecifiedBenchmarks(&console);
  benchmark::Shutdown();
  provenance["after"] = state_json(monitor);
  provenance["warm_up_calls"] = kWarmUp;
  provenance["flush_bytes"] = bench.flush_bytes();

  const auto results = bench.results(cases);
  const auto json = bench_json(results, provenance);
  if (!options.out.empty()) {
    std::ofstream out(options.out);
    out << json.dump(1) << '\n';
    out.flush();
    if (!out) throw DataError(fmt::format("{}: cannot be written", options.out.string()));
  }
  if (options.json) {
    fmt::print("{}\n", json.dump(1));
  } else {
    for (const auto& table : bench_tables(results)) fmt::print("\n{}", to_text(table));
  }
  return static_cast<int>(bench.failed() ? ExitCode::check_failed : ExitCode::ok);
}

}  // namespace sage2

#endif
