#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

/// Counter-based random numbers, identical on every platform: number i of a stream is a function of the stream's key
/// and i alone, so that any part can be generated without the parts before it. Only integer operations and + - * / sqrt
/// in a fixed order, which IEEE 754 rounds in one way everywhere; never a function of libm.
namespace sage2 {

/// Philox 4x32 with 10 rounds (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011).
[[nodiscard]] inline std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> x,
                                                         std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53U} * x[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57U} * x[2];
    x = {static_cast<std::uint32_t>(b >> 32) ^ x[1] ^ key[0], static_cast<std::uint32_t>(b),
         static_cast<std::uint32_t>(a >> 32) ^ x[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return x;
}

/// Natural logarithm of a positive normal number to a few ulp: x = 2^e m with m near 1, ln m = 2 artanh((m-1)/(m+1)).
[[nodiscard]] inline double portable_log(double x) {
  const auto bits = std::bit_cast<std::uint64_t>(x);
  auto exponent = static_cast<std::int64_t>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0xfffffffffffffULL) | 0x3ff0000000000000ULL);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double s = (m - 1.0) / (m + 1.0);  // |s| <= 0.1716, so that s^24 < 1e-18
  const double z = s * s;
  double series = 0;
  for (int k = 23; k >= 1; k -= 2) series = series * z + 1.0 / k;
  return static_cast<double>(exponent) * 0.6931471805599453 + 2.0 * s * series;
}

/// The x with probability p below it under the standard normal law, to about 1e-15, for p from 1e-11 to 1 - 1e-11
/// (Wichura: "Algorithm AS 241: the percentage points of the normal distribution", 1988, PPND16).
[[nodiscard]] double normal_quantile(double p);

/// A stream of random numbers, named by a seed and what it is for.
class RandomStream {
 public:
  explicit RandomStream(std::uint64_t seed) : key_(seed) {}

  /// The stream for one part (a layer, a head, a purpose) of what this stream is for.
  [[nodiscard]] RandomStream at(std::uint64_t part) const {
    const auto x =
        philox({static_cast<std::uint32_t>(part), static_cast<std::uint32_t>(part >> 32), 0x73747265U, 0}, halves());
    return RandomStream((std::uint64_t{x[1]} << 32) | x[0]);
  }

  /// Four 32-bit numbers: number 4 i to 4 i + 3 of the stream.
  [[nodiscard]] std::array<std::uint32_t, 4> block(std::uint64_t i) const {
    return philox({static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32), 0, 0}, halves());
  }

  /// Number i, uniform in 0 .. n-1 (n below 2^32).
  [[nodiscard]] std::uint32_t index(std::uint64_t i, std::uint32_t n) const {
    return static_cast<std::uint32_t>((std::uint64_t{block(i / 4)[i % 4]} * n) >> 32);
  }

  /// Number i, uniform in (0, 1).
  [[nodiscard]] double uniform(std::uint64_t i) const { return to_uniform(block(i / 4)[i % 4]); }

  /// Number i, standard normal (within 6.4 sigma, the range of 32 bits).
  [[nodiscard]] double normal(std::uint64_t i) const { return normal_quantile(uniform(i)); }

  /// The middle of one of 2^32 equal parts of (0, 1): neither 0 nor 1, and exact.
  [[nodiscard]] static double to_uniform(std::uint32_t bits) { return (bits + 0.5) * 0x1p-32; }

 private:
  [[nodiscard]] std::array<std::uint32_t, 2> halves() const {
    return {static_cast<std::uint32_t>(key_), static_cast<std::uint32_t>(key_ >> 32)};
  }
  std::uint64_t key_;
};

}  // namespace sage2
