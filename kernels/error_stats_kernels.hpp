#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "reference/error_histogram.hpp"

/// What error_stats.cpp starts on the device.
namespace sage2::cuda {

/// Sums of one error metric each: sum O^2, O'^2, O O', |O - O'|, |O|, (O - O')^2.
inline constexpr int kErrorSumCount = 6;
/// Buckets 0 .. of a head's histogram are those from kLowestErrorBucket on.
inline constexpr std::int64_t kErrorBuckets = kHighestErrorBucket - kLowestErrorBucket + 1;
/// Elements that one block of threads sums: a part of the meaning, so that every machine adds in the same order.
inline constexpr std::int64_t kErrorChunk = 32768;

[[nodiscard]] constexpr std::int64_t error_chunks(std::int64_t elements) {
  return (elements + kErrorChunk - 1) / kErrorChunk;
}

/// What was found in one chunk of a head, or in all.
struct ErrorPartial {
  double high[kErrorSumCount], low[kErrorSumCount];  ///< each sum is high + low
  std::uint64_t max_bits;                            ///< of the finite errors, as the bits of a double
  std::uint64_t nan, inf, nonfinite, zeros;          ///< NaN and infinite outputs; non-finite and zero errors
  std::uint32_t first, last;                         ///< the least and the greatest bucket; first > last: none
};

/// partials: [heads, error_chunks(elements)], for the device's own use; joined: [heads]; counts: [heads,
/// kErrorBuckets], added to.
void launch_error_stats(const double* reference, const float* output, std::int64_t heads, std::int64_t elements,
                        ErrorPartial* partials, ErrorPartial* joined, unsigned long long* counts, cudaStream_t stream);

/// sums: [rows, kErrorSumCount], each row's own.
void launch_row_sums(const double* reference, const float* output, std::int64_t rows, std::int64_t cols, double* sums,
                     cudaStream_t stream);

}  // namespace sage2::cuda
