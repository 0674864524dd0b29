#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "datasets/capture.hpp"
#include "harness/verify.hpp"
#include "kernels/device_info.hpp"

namespace sage2 {

struct VerifySettings {
  Grid grid = Grid::full;
  std::vector<std::filesystem::path> captures;
  ReaderOptions reader;
  std::vector<Variant> variants;   ///< empty: verification_variants() natively, those and all suites as emulated
  std::uint64_t accumulators = 0;  ///< results of each tensor-core instruction to compare with its model
  std::uint64_t seed = 0;
};

/// Runs every case on one GPU: variants that run natively there against the emulation on the same GPU and the FP64
/// reference; and on short sequences the emulation against the CPU's. `progress` is told how many of how many cases are
/// done.
[[nodiscard]] Verification verify_on(const cuda::DeviceInfo& device, const VerifySettings& settings,
                                     const std::function<void(std::size_t, std::size_t)>& progress);

}  // namespace sage2
