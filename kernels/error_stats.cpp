#include "kernels/error_stats.hpp"

#include <algorithm>
#include <bit>

#include "kernels/cuda_check.hpp"
#include "kernels/device_buffer.hpp"
#include "kernels/error_stats_kernels.hpp"

namespace sage2::cuda {
namespace {

/// Histograms of so many heads are held at once, 200 KB each.
constexpr std::int64_t kHeadsAtOnce = 64;

ErrorSums sums_of(const double* s, double count) {
  return {s[0], s[1], s[2], s[3], s[4], s[5], count};
}

ErrorParts parts_of(const ErrorPartial& p, std::int64_t elements) {
  double sums[kErrorSumCount];
  for (int k = 0; k < kErrorSumCount; ++k) sums[k] = p.high[k] + p.low[k];
  ErrorParts parts;
  parts.sums = sums_of(sums, static_cast<double>(elements));
  parts.nan = p.nan;
  parts.inf = p.inf;
  parts.nonfinite_errors = p.nonfinite;
  parts.max_abs = std::bit_cast<double>(p.max_bits);
  return parts;
}

/// Appends the statistics of `heads` heads; `counts` has room for them.
void add_heads(const double* reference, const float* output, std::int64_t heads, std::int64_t elements,
               DeviceBuffer<unsigned long long>& counts, cudaStream_t stream, std::vector<HeadErrors>& out) {
  DeviceBuffer<ErrorPartial> partials(static_cast<std::size_t>(heads * error_chunks(elements)), stream);
  DeviceBuffer<ErrorPartial> joined(static_cast<std::size_t>(heads), stream);
  counts.zero();
  launch_error_stats(reference, output, heads, elements, partials.data(), joined.data(), counts.data(), stream);
  const auto found = joined.download();

  // Only the buckets between the least and the greatest error travel.
  std::uint32_t first = kHighestErrorBucket;
  std::uint32_t last = 0;
  for (const ErrorPartial& p : found) {
    first = std::min(first, p.first);
    last = std::max(last, p.last);
  }
  const std::size_t width = first > last ? 0 : last - first + 1;
  std::vector<std::uint64_t> buckets(width * static_cast<std::size_t>(heads));
  if (width > 0) {
    SAGE2_CUDA_CHECK(cudaMemcpy2DAsync(buckets.data(), width * sizeof(std::uint64_t),
                                       counts.data() + (first - kLowestErrorBucket),
                                       kErrorBuckets * sizeof(std::uint64_t), width * sizeof(std::uint64_t),
                                       static_cast<std::size_t>(heads), cudaMemcpyDeviceToHost, stream));
    SAGE2_CUDA_CHECK(cudaStreamSynchronize(stream));
  }
  for (std::size_t h = 0; h < found.size(); ++h) {
    ErrorParts parts = parts_of(found[h], elements);
    parts.histogram.add_counts(found[h].zeros, first, {buckets.data() + h * width, width});
    out.push_back({ErrorStats(parts), {}});
  }
}

}  // namespace

std::vector<HeadErrors> error_stats(const double* reference, const float* output, std::int64_t heads, std::int64_t rows,
                                    std::int64_t cols, bool with_row_sums, cudaStream_t stream) {
  static_assert(sizeof(unsigned long long) == sizeof(std::uint64_t));
  const std::int64_t elements = rows * cols;
  std::vector<HeadErrors> out;
  if (heads == 0 || elements == 0) {
    out.resize(static_cast<std::size_t>(heads));
  } else {
    out.reserve(static_cast<std::size_t>(heads));
    const std::int64_t at_once = std::min(heads, kHeadsAtOnce);
    DeviceBuffer<unsigned long long> counts(static_cast<std::size_t>(at_once * kErrorBuckets), stream);
    for (std::int64_t h = 0; h < heads; h += at_once) {
      add_heads(reference + h * elements, output + h * elements, std::min(at_once, heads - h), elements, counts, stream,
                out);
    }
  }
  if (!with_row_sums) return out;

  std::vector<double> sums;
  if (heads * rows > 0) {
    DeviceBuffer<double> device_sums(static_cast<std::size_t>(heads * rows * kErrorSumCount), stream);
    launch_row_sums(reference, output, heads * rows, cols, device_sums.data(), stream);
    sums = device_sums.download();
  }
  for (std::int64_t h = 0; h < heads; ++h) {
    auto& row_sums = out[static_cast<std::size_t>(h)].row_sums;
    row_sums.reserve(static_cast<std::size_t>(rows));
    for (std::int64_t i = 0; i < rows; ++i) {
      row_sums.push_back(sums_of(sums.data() + (h * rows + i) * kErrorSumCount, static_cast<double>(cols)));
    }
  }
  return out;
}

}  // namespace sage2::cuda
