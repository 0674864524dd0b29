#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace sage2 {

struct BenchOptions {
  std::filesystem::path out;
  bool json = false;
  int samples = 25;
  std::vector<std::string> google_flags;  ///< for Google Benchmark
};

/// Times the kernels of this machine's GPU. Exit code 1 where a variant did not verify and was therefore not timed.
/// Throws DeviceError where there is nothing to time them on.
int run_bench(const BenchOptions& options);

}  // namespace sage2
