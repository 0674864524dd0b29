#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "harness/engine.hpp"

/// Where a run computes, as the command line says.
namespace sage2 {

struct DeviceOptions {
  std::string device = "auto";   ///< auto, cpu, cuda
  std::string kernels = "auto";  ///< auto, native, emulated
  double memory = 0;             ///< GiB of each GPU to use at most; 0: what is free
};

class DeviceChoice {
 public:
  /// Begins to start the GPUs in the background, except with device "cpu". Throws UsageError where the options
  /// contradict each other.
  explicit DeviceChoice(const DeviceOptions& options);
  DeviceChoice(const DeviceChoice&) = delete;
  DeviceChoice& operator=(const DeviceChoice&) = delete;
  ~DeviceChoice();

  /// Decides, and says on stderr what "auto" came to. Throws DeviceError where GPUs are needed and there are none, no
  /// driver, only chips that are too old, or no CUDA engine in this build.
  void decide();

  /// Adds GPUs and driver, if they are used. After `decide`, as what follows.
  void describe(RunInfo& info) const;
  [[nodiscard]] std::unique_ptr<Engine> make_engine(const EvaluationPlan& plan, RecordSink& sink);

 private:
  struct Gpus;
  DeviceOptions options_;
  std::unique_ptr<Gpus> gpus_;  ///< null where none are used
};

}  // namespace sage2
