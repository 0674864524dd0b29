#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

/// Percentiles of absolute errors in constant memory, exactly mergeable.
namespace sage2 {

/// Counts of non-negative numbers in buckets of 1/64 octave: the exponent and the first six bits of the significand.
/// A bucket's middle is within 1/128 (0.8%) of everything in it. Zero has a bucket of its own. Numbers below 2^-192 or
/// from 2^192 on (FP32 outputs leave no such errors) fall into the outermost buckets. Only the octaves between the
/// smallest and the largest number seen are held, 512 bytes each.
class ErrorHistogram {
 public:
  /// Adds finite numbers >= 0.
  void add(std::span<const double> values);
  void merge(const ErrorHistogram& other);

  /// How many numbers were added.
  [[nodiscard]] std::uint64_t count() const;

  /// The number of the given rank in ascending order (1 .. count), to the middle of its bucket.
  [[nodiscard]] double at_rank(std::uint64_t rank) const;

 private:
  /// Makes room for buckets first .. last.
  void cover(std::uint32_t first, std::uint32_t last);

  std::uint64_t zeros_ = 0;
  std::uint32_t first_ = 0;  ///< bucket of counts_[0], the first of an octave
  std::vector<std::uint64_t> counts_;
};

}  // namespace sage2
