#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "reference/host_device.hpp"

/// Percentiles of absolute errors in constant memory, exactly mergeable.
namespace sage2 {

/// Buckets are numbered by the leading bits of their FP64 numbers: biased exponent, then the top of the significand.
inline constexpr std::uint32_t kErrorBucketBits = 6;
inline constexpr std::uint32_t kLowestErrorBucket = (1023 - 192) << kErrorBucketBits;
inline constexpr std::uint32_t kHighestErrorBucket = ((1023 + 192) << kErrorBucketBits) - 1;
/// The bucket of exact zero.
inline constexpr std::uint32_t kZeroErrorBucket = 0;

/// The bucket of a finite number >= 0, for every engine: kZeroErrorBucket or kLowestErrorBucket .. kHighestErrorBucket.
[[nodiscard]] SAGE2_HOST_DEVICE inline std::uint32_t error_bucket(double x) {
  const auto leading = static_cast<std::uint32_t>(std::bit_cast<std::uint64_t>(x) >> (52U - kErrorBucketBits));
  const std::uint32_t not_below = leading < kLowestErrorBucket ? kLowestErrorBucket : leading;
  const std::uint32_t bucket = not_below > kHighestErrorBucket ? kHighestErrorBucket : not_below;
  return x == 0 ? kZeroErrorBucket : bucket;
}

/// Counts of non-negative numbers in buckets of 1/64 octave: the exponent and the first six bits of the significand.
/// A bucket's middle is within 1/128 (0.8%) of everything in it. Zero has a bucket of its own. Numbers below 2^-192 or
/// from 2^192 on (FP32 outputs leave no such errors) fall into the outermost buckets. Only the octaves between the
/// smallest and the largest number seen are held, 512 bytes each.
class ErrorHistogram {
 public:
  /// Adds finite numbers >= 0.
  void add(std::span<const double> values);
  /// Adds numbers that were counted elsewhere: `zeros` zeros, and counts[i] numbers of error_bucket `first` + i.
  void add_counts(std::uint64_t zeros, std::uint32_t first, std::span<const std::uint64_t> counts);
  void merge(const ErrorHistogram& other);

  /// How many numbers were added.
  [[nodiscard]] std::uint64_t count() const;

  /// The number of the given rank in ascending order (1 .. count), to the middle of its bucket.
  [[nodiscard]] double at_rank(std::uint64_t rank) const;

  /// Whether all counts are equal.
  bool operator==(const ErrorHistogram&) const = default;

 private:
  /// Makes room for buckets first .. last.
  void cover(std::uint32_t first, std::uint32_t last);

  std::uint64_t zeros_ = 0;
  std::uint32_t first_ = 0;  ///< bucket of counts_[0], the first of an octave
  std::vector<std::uint64_t> counts_;
};

}  // namespace sage2
