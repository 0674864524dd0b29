#include "harness/device_choice.hpp"

#include <cstdio>

#include "datasets/error.hpp"
#include "fmt/format.h"
#ifdef SAGE2_HAS_CUDA
#include <fstream>

#include "fmt/ranges.h"
#include "harness/cuda_engine.hpp"
#endif

namespace sage2 {

#ifdef SAGE2_HAS_CUDA

namespace {

/// "580.95.05 (CUDA 13.0)"; without the driver's own number where the kernel does not show it.
std::string driver_name(const std::string& cuda) {
  std::ifstream in("/proc/driver/nvidia/version");
  for (std::string word; in >> word;) {
    const bool number = word.size() > 3 && word.find_first_not_of("0123456789.") == std::string::npos &&
                        word.find('.') != std::string::npos;
    if (number) return fmt::format("{} (CUDA {})", word, cuda);
  }
  return fmt::format("CUDA {}", cuda);
}

}  // namespace

struct DeviceChoice::Gpus {
  CudaStart start;

  std::string why_none() {
    const auto& found = start.found();
    return found.devices.empty() ? found.why_none : "";
  }
  /// Each name once: "2 x NVIDIA H200".
  std::string names() {
    std::vector<std::pair<std::string, int>> counted;
    for (const auto& device : start.found().devices) {
      if (counted.empty() || counted.back().first != device.name) counted.emplace_back(device.name, 0);
      ++counted.back().second;
    }
    std::vector<std::string> words;
    for (const auto& [name, count] : counted) words.push_back(count == 1 ? name : fmt::format("{} x {}", count, name));
    return fmt::format("{}", fmt::join(words, ", "));
  }
  void describe(RunInfo& info) {
    info.gpu = names();
    info.driver = driver_name(start.found().devices.front().driver);
    for (const auto& device : start.found().devices) {
      const auto capability = fmt::format("{}.{}", device.major, device.minor);
      if (info.compute_capability.find(capability) != std::string::npos) continue;
      info.compute_capability += (info.compute_capability.empty() ? "" : ", ") + capability;
    }
  }
  std::unique_ptr<Engine> make_engine(const DeviceOptions& options, const EvaluationPlan& plan, RecordSink& sink) {
    CudaSettings settings;
    if (options.kernels == "native") settings.kernels = Kernels::native;
    if (options.kernels == "emulated") settings.kernels = Kernels::emulated;
    settings.memory = static_cast<std::size_t>(options.memory * 1024 * 1024 * 1024);
    return std::make_unique<CudaEngine>(start, settings, plan, sink);
  }
};

#else

struct DeviceChoice::Gpus {
  static std::string why_none() { return "this build has no CUDA engine"; }
  static std::string names() { return ""; }
  static void describe(RunInfo& /*info*/) {}
  static std::unique_ptr<Engine> make_engine(const DeviceOptions& /*options*/, const EvaluationPlan& plan,
                                             RecordSink& sink) {
    return std::make_unique<CpuEngine>(plan, sink);
  }
};

#endif

DeviceChoice::DeviceChoice(const DeviceOptions& options) : options_(options) {
  if (options.device != "cpu") {
    gpus_ = std::make_unique<Gpus>();
  } else if (options.kernels == "native") {
    throw UsageError("--engine native runs on a GPU only, not with --device cpu");
  }
}

DeviceChoice::~DeviceChoice() = default;

void DeviceChoice::decide() {
  if (gpus_ == nullptr) return;
  const auto why = gpus_->why_none();
  if (why.empty()) {
    if (options_.device == "auto") fmt::print(stderr, "sage2-eval: computing on {}\n", gpus_->names());
    return;
  }
  if (options_.device == "cuda") {
    throw DeviceError(fmt::format("--device cuda: {}; --device cpu emulates every chip", why));
  }
  if (options_.kernels == "native") throw DeviceError(fmt::format("--engine native: {}", why));
  fmt::print(stderr, "sage2-eval: {}: computing on the CPU\n", why);
  gpus_.reset();
}

void DeviceChoice::describe(RunInfo& info) const {
  if (gpus_ != nullptr) gpus_->describe(info);
}

std::unique_ptr<Engine> DeviceChoice::make_engine(const EvaluationPlan& plan, RecordSink& sink) {
  if (gpus_ != nullptr) return gpus_->make_engine(options_, plan, sink);
  return std::make_unique<CpuEngine>(plan, sink);
}

}  // namespace sage2
