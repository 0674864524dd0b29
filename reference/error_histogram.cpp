#include "reference/error_histogram.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>
#include <stdexcept>

namespace sage2 {
namespace {

constexpr std::uint32_t kOctave = 1U << kErrorBucketBits;
constexpr std::uint32_t kLowest = kLowestErrorBucket;
constexpr std::uint32_t kHighest = kHighestErrorBucket;
constexpr std::uint32_t kZero = kZeroErrorBucket;
constexpr std::size_t kChunk = 256;

double middle_of(std::uint32_t bucket) {
  const auto lower = std::bit_cast<double>(static_cast<std::uint64_t>(bucket) << (52U - kErrorBucketBits));
  const auto upper = std::bit_cast<double>(static_cast<std::uint64_t>(bucket + 1) << (52U - kErrorBucketBits));
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
      const std::uint32_t bucket = error_bucket(chunk[i]);
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

void ErrorHistogram::add_counts(std::uint64_t zeros, std::uint32_t first, std::span<const std::uint64_t> counts) {
  zeros_ += zeros;
  // Buckets without numbers at the ends are not held.
  const auto counted = [](std::uint64_t count) { return count > 0; };
  const auto begin = std::find_if(counts.begin(), counts.end(), counted);
  if (begin == counts.end()) return;
  const auto end = std::find_if(counts.rbegin(), counts.rend(), counted).base();
  first += static_cast<std::uint32_t>(begin - counts.begin());
  const auto last = first + static_cast<std::uint32_t>(end - begin) - 1;
  if (first < kLowest || last > kHighest) throw std::invalid_argument("ErrorHistogram: there is no such bucket");
  cover(first, last);
  for (auto count = begin; count != end; ++count) counts_[first - first_ + (count - begin)] += *count;
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
