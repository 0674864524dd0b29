#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "reference/metrics.hpp"

/// Metrics reduced on the device: only sums and histograms travel back.
namespace sage2::cuda {

/// One head's errors, and each of its rows' own sums where they were asked for.
struct HeadErrors {
  ErrorStats stats;
  std::vector<ErrorSums> row_sums;
};

/// Compares outputs [heads, rows, cols] with the FP64 reference of the same shape, both in device memory. Waits for the
/// stream. Counts, maximum and histogram equal the CPU's exactly; the sums to their last bits, whatever the machine.
[[nodiscard]] std::vector<HeadErrors> error_stats(const double* reference, const float* output, std::int64_t heads,
                                                  std::int64_t rows, std::int64_t cols, bool with_row_sums,
                                                  cudaStream_t stream);

}  // namespace sage2::cuda
