#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

/// How closely two outputs agree that should be the same.
namespace sage2 {

/// Values in the order of the number line, so that neighbours differ by one; +0 and -0 are the same.
[[nodiscard]] std::int32_t bfloat16_rank(float value);

struct Agreement {
  std::uint64_t values = 0;
  std::uint64_t same_fp32 = 0;  ///< equal to the bit
  std::uint64_t same_bf16 = 0;  ///< equal after rounding to BF16
  std::uint64_t nonfinite = 0;  ///< NaN or infinite in either output; equal to nothing
  std::uint32_t worst_ulp = 0;  ///< largest distance in units of the last place of BF16, of finite values
  bool differ = false;          ///< whether any value is not equal to the bit; then
  std::size_t worst_at = 0;     ///< index of the first value that is not finite, or else is that far off
  float worst_found = 0, worst_expected = 0;
  double abs_difference = 0, abs_expected = 0;  ///< sums

  /// Relative L1 distance from what was expected; 0 where both are 0, infinite where only that is 0.
  [[nodiscard]] double rel_l1() const;
  [[nodiscard]] double share_fp32() const { return share(same_fp32); }
  [[nodiscard]] double share_bf16() const { return share(same_bf16); }

  /// Adds the findings on other values; `worst_at` of the further one is kept.
  void merge(const Agreement& other);

 private:
  [[nodiscard]] double share(std::uint64_t n) const {
    return values == 0 ? 1.0 : static_cast<double>(n) / static_cast<double>(values);
  }
};

/// Compares equally long outputs, with all threads. The same result whatever their number.
[[nodiscard]] Agreement compare_outputs(std::span<const float> found, std::span<const float> expected);

/// sum |o - reference| and sum |reference|, for quantisation errors.
struct Distance {
  double difference = 0, reference = 0;
  [[nodiscard]] double rel_l1() const;
  void merge(const Distance& other) {
    difference += other.difference;
    reference += other.reference;
  }
};
[[nodiscard]] Distance distance(std::span<const float> o, std::span<const double> reference);

}  // namespace sage2
