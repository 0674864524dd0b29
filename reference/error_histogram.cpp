#include "reference/error_histogram.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>

namespace sage2 {
namespace {

constexpr std::uint32_t kBucketBits = 6;
constexpr std::uint32_t kOctave = 1U << kBucketBits;
constexpr unsigned kDroppedBits = 52 - kBucketBits;
// A bucket is numbered by the leading bits of its FP64 numbers: biased exponent, then the top of the significand.
constexpr std::uint32_t kLowest = (1023 - 192) * kOctave;
constexpr std::uint32_t kHighest = (1023 + 192) * kOctave - 1;
/// Stands for exact zero.
constexpr std::uint32_t kZero = 0;

constexpr std::size_t kChunk = 256;

std::uint32_t bucket_of(double x) {
  const auto leading = static_cast<std::uint32_t>(std::bit_cast<std::uint64_t>(x) >> kDroppedBits);
  const std::uint32_t bucket = std::clamp(leading, kLowest, kHighest);
  return x == 0 ? kZero : bucket;
}

double middle_of(std::uint32_t bucket) {
  const auto lower = std::bit_cast<double>(static_cast<std::uint64_t>(bucket) << kDroppedBits);
  const auto upper = std::bit_cast<double>(static_cast<std::uint64_t>(bucket + 1) << kDroppedBits);
  return 0.5 * (lower + upper);
}

}  // namespace

void ErrorHistogram::add(std::span<const double> values) {
  std::array<std::uint32_t, kChunk> buckets;
  for (std::size_t begin = 0; begin < values.size(); begin += kChunk) {
    const auto chunk = values.subspan(begin, std::min(kChunk, values.size() - begin));
    std::uint32_t smallest = kHighest;
    std::uint32_t largest = kLowest;
    std::uint32_t zeros = 0;
#pragma omp simd reduction(min : smallest) reduction(max : largest) reduction(+ : zeros)
    for (std::size_t i = 0; i < chunk.size(); ++i) {
      const std::uint32_t bucket = bucket_of(chunk[i]);
      buckets[i] = bucket;
      zeros += bucket == kZero ? 1U : 0U;
      smallest = std::min(smallest, bucket == kZero ? kHighest : bucket);
      largest = std::max(largest, bucket);
    }
    zeros_ += zeros;
    if (zeros == chunk.size()) continue;
    cover(smallest, largest);
    std::uint64_t* const counts = counts_.data();
    if (zeros == 0) {
      for (std::size_t i = 0; i < chunk.size(); ++i) ++counts[buckets[i] - first_];
    } else {
      for (std::size_t i = 0; i < chunk.size(); ++i) {
        if (buckets[i] != kZero) ++counts[buckets[i] - first_];
      }
    }
  }
}

void ErrorHistogram::merge(const ErrorHistogram& other) {
  zeros_ += other.zeros_;
  if (other.counts_.empty()) return;
  cover(other.first_, other.first_ + static_cast<std::uint32_t>(other.counts_.size()) - 1);
  for (std::size_t i = 0; i < other.counts_.size(); ++i) counts_[other.first_ - first_ + i] += other.counts_[i];
}

std::uint64_t ErrorHistogram::count() const {
  return std::accumulate(counts_.begin(), counts_.end(), zeros_);
}

double ErrorHistogram::at_rank(std::uint64_t rank) const {
  if (rank <= zeros_) return 0;
  std::uint64_t below = zeros_;
  std::size_t i = 0;
  while (i + 1 < counts_.size() && below + counts_[i] < rank) below += counts_[i++];
  return middle_of(first_ + static_cast<std::uint32_t>(i));
}

void ErrorHistogram::cover(std::uint32_t first, std::uint32_t last) {
  first = first / kOctave * kOctave;
  auto end = (last / kOctave + 1) * kOctave;
  if (!counts_.empty()) {
    const auto old_end = first_ + static_cast<std::uint32_t>(counts_.size());
    if (first >= first_ && end <= old_end) return;
    first = std::min(first, first_);
    end = std::max(end, old_end);
  }
  std::vector<std::uint64_t> wider(end - first);
  std::copy(counts_.begin(), counts_.end(), wider.begin() + (counts_.empty() ? 0 : first_ - first));
  counts_ = std::move(wider);
  first_ = first;
}

}  // namespace sage2
