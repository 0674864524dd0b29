#pragma once

#include <bit>
#include <cstdint>

#include "reference/accumulator.hpp"
#include "reference/host_device.hpp"

/// The accumulator model of docs/numerics.md on bit patterns, in plain 64-bit integers: slow, and written apart from
/// every other implementation, so that it can judge both the hardware and the emulation.
namespace sage2::cuda {

/// A floating-point format as bits: sign, exponent field, mantissa field.
struct WordFormat {
  int exponent_bits;
  int mantissa_bits;
  bool has_infinity;  ///< the highest exponent field means infinity and NaN; E4M3 has a single NaN instead

  [[nodiscard]] SAGE2_HOST_DEVICE constexpr int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  [[nodiscard]] SAGE2_HOST_DEVICE constexpr int bits() const { return 1 + exponent_bits + mantissa_bits; }
};
inline constexpr WordFormat kE4m3Word{4, 3, false};
inline constexpr WordFormat kE5m2Word{5, 2, true};
inline constexpr WordFormat kFp16Word{5, 10, true};
inline constexpr WordFormat kBf16Word{8, 7, true};
inline constexpr WordFormat kFp32Word{8, 23, true};

/// Parameters of the model: see AccumulatorModel.
struct WordModel {
  int group = 0, fraction = 0, out_fraction = 0;
  bool half = false;
  /// FP8 mma.sync on Hopper, which has no such instruction: CUDA 13 makes FP16 words of the FP8 ones; one FP16 product
  /// takes k mod 4 in {0, 1}, a second one {2, 3} on top of it, from zero; then C is added, rounded, in its own format.
  bool through_fp16 = false;
  int least = kLeastSumExponent;  ///< E is at least this with FP32 accumulators
};

/// value = mantissa 2^(exponent - mantissa_bits), with the exponent that the hardware sees.
struct Unpacked {
  std::int32_t mantissa;
  int exponent;
};

[[nodiscard]] SAGE2_HOST_DEVICE constexpr Unpacked unpack(WordFormat f, std::uint32_t word) {
  const auto mantissa = static_cast<std::int32_t>(word & ((1U << f.mantissa_bits) - 1U));
  const auto field = static_cast<int>((word >> f.mantissa_bits) & ((1U << f.exponent_bits) - 1U));
  const bool negative = ((word >> (f.bits() - 1)) & 1U) != 0;
  const std::int32_t whole = field > 0 ? mantissa | (1 << f.mantissa_bits) : mantissa;
  return {negative ? -whole : whole, (field > 0 ? field : 1) - f.bias()};
}

namespace words {

[[nodiscard]] SAGE2_HOST_DEVICE constexpr std::uint64_t magnitude(std::int64_t x) {
  return x < 0 ? ~static_cast<std::uint64_t>(x) + 1U : static_cast<std::uint64_t>(x);
}
/// Position of the highest bit set, -1 for 0.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr int top_bit(std::uint64_t x) {
  int top = -1;
  for (; x != 0; x >>= 1U) ++top;
  return top;
}
/// x 2^shift, truncated toward zero.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr std::uint64_t shifted(std::uint64_t x, int shift) {
  if (shift >= 0) return x << shift;
  return shift > -64 ? x >> -shift : 0;
}
[[nodiscard]] SAGE2_HOST_DEVICE constexpr std::int64_t shifted_toward_zero(std::int64_t x, int shift) {
  const auto cut = static_cast<std::int64_t>(shifted(magnitude(x), shift));
  return x < 0 ? -cut : cut;
}

/// Bits of `x 2^unit` in FP32, truncated toward zero to `fraction` fraction bits. What becomes zero loses its sign.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr std::uint32_t to_fp32_truncated(std::int64_t x, int unit, int fraction) {
  const std::uint32_t sign = x < 0 ? 0x80000000U : 0U;
  std::uint64_t m = magnitude(x);
  if (m == 0) return 0;
  const int top = top_bit(m);
  if (top > fraction) m = shifted(shifted(m, fraction - top), top - fraction);
  const int exponent = top + unit;
  if (exponent > 127) return sign | 0x7F800000U;
  if (exponent < -126) {
    const auto tiny = static_cast<std::uint32_t>(shifted(m, unit + 149));
    return tiny == 0 ? 0 : sign | tiny;
  }
  const auto significand = static_cast<std::uint32_t>(shifted(m, 23 - top));
  return sign | (static_cast<std::uint32_t>(exponent + 127) << 23U) | (significand & 0x7FFFFFU);
}

/// Bits of `x 2^unit` in FP16, rounded to nearest even; infinity from 65520 up, zero without a sign.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr std::uint32_t to_fp16_rounded(std::int64_t x, int unit) {
  if (x == 0) return 0;
  const std::uint32_t sign = x < 0 ? 0x8000U : 0U;
  const std::uint64_t m = magnitude(x);
  const int lead = top_bit(m) + unit;
  if (lead > 16) return sign | 0x7C00U;
  const int exponent = lead > -14 ? lead : -14;
  const int drop = exponent - 10 - unit;  // bits of the sum below FP16's last one
  if (drop > 62) return 0;
  std::uint64_t kept = shifted(m, -drop);
  if (drop > 0) {
    const std::uint64_t rest = m - (kept << drop);
    const std::uint64_t middle = std::uint64_t{1} << (drop - 1);
    if (rest > middle || (rest == middle && (kept & 1U) != 0)) ++kept;
  }
  // The hidden bit of `kept`, and a carry out of it, add to the exponent field.
  const auto bits = static_cast<std::uint32_t>(kept) + (static_cast<std::uint32_t>(exponent + 14) << 10U);
  if (bits == 0) return 0;
  return sign | (bits >= 0x7C00U ? 0x7C00U : bits);
}

/// Chains groups of products: C and the result are FP32 bits, or FP16 bits with a half accumulator.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr std::uint32_t chain(const WordModel& model, WordFormat fa,
                                                              const std::uint16_t* a, WordFormat fb,
                                                              const std::uint16_t* b, int depth, std::uint32_t c) {
  constexpr int kNone = -100000;
  const WordFormat fc = model.half ? kFp16Word : kFp32Word;
  for (int first = 0; first < depth; first += model.group) {
    const int last = first + model.group < depth ? first + model.group : depth;
    const Unpacked uc = unpack(fc, c);
    int e = uc.mantissa != 0 ? uc.exponent : kNone;
    for (int k = first; k < last; ++k) {
      const Unpacked ua = unpack(fa, a[k]);
      const Unpacked ub = unpack(fb, b[k]);
      if (ua.mantissa != 0 && ub.mantissa != 0 && ua.exponent + ub.exponent > e) e = ua.exponent + ub.exponent;
    }
    if (e == kNone) {
      c = 0;
      continue;
    }
    if (!model.half && e < model.least) e = model.least;
    // Everything in units of 2^(e - fraction).
    const int unit = e - model.fraction;
    std::int64_t sum = shifted_toward_zero(uc.mantissa, uc.exponent - fc.mantissa_bits - unit);
    for (int k = first; k < last; ++k) {
      const Unpacked ua = unpack(fa, a[k]);
      const Unpacked ub = unpack(fb, b[k]);
      const std::int64_t product = static_cast<std::int64_t>(ua.mantissa) * ub.mantissa;
      sum += shifted_toward_zero(product, ua.exponent + ub.exponent - fa.mantissa_bits - fb.mantissa_bits - unit);
    }
    c = model.half ? to_fp16_rounded(sum, unit) : to_fp32_truncated(sum, unit, model.out_fraction);
    // An accumulator that overflowed stays so.
    if ((c & (model.half ? 0x7C00U : 0x7F800000U)) == (model.half ? 0x7C00U : 0x7F800000U)) return c;
  }
  return c;
}

/// An FP8 word as FP16: exact, and normal where FP16 is.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr std::uint16_t to_fp16_word(WordFormat f, std::uint16_t word) {
  if (f.exponent_bits == kFp16Word.exponent_bits) return static_cast<std::uint16_t>(word << 8U);
  const Unpacked u = unpack(f, word);
  return static_cast<std::uint16_t>(to_fp16_rounded(u.mantissa, u.exponent - f.mantissa_bits) |
                                    (static_cast<std::uint32_t>(word & 0x80U) << 8U));
}

/// The rounded sum of two FP16 numbers; the second may be infinite.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr std::uint32_t add_fp16(std::uint32_t x, std::uint32_t y) {
  constexpr int kUnit = -24;  // FP16's smallest number
  if ((y & 0x7C00U) == 0x7C00U) return y;
  const Unpacked ux = unpack(kFp16Word, x);
  const Unpacked uy = unpack(kFp16Word, y);
  return to_fp16_rounded(shifted_toward_zero(ux.mantissa, ux.exponent - kFp16Word.mantissa_bits - kUnit) +
                             shifted_toward_zero(uy.mantissa, uy.exponent - kFp16Word.mantissa_bits - kUnit),
                         kUnit);
}

/// The rounded sum of two FP32 numbers.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr std::uint32_t add_fp32(std::uint32_t x, std::uint32_t y) {
  return std::bit_cast<std::uint32_t>(std::bit_cast<float>(x) + std::bit_cast<float>(y));
}

}  // namespace words

/// C + sum of a_k b_k, k in ascending order, as bits. depth: at most 32.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr std::uint32_t accumulate_words(const WordModel& model, WordFormat fa,
                                                                         const std::uint16_t* a, WordFormat fb,
                                                                         const std::uint16_t* b, int depth,
                                                                         std::uint32_t c) {
  if (!model.through_fp16) return words::chain(model, fa, a, fb, b, depth, c);
  std::uint16_t ha[32] = {};
  std::uint16_t hb[32] = {};
  int n = 0;
  for (int pair = 0; pair < 4; pair += 2) {
    for (int k = 0; k < depth; ++k) {
      if (k % 4 / 2 * 2 != pair) continue;
      ha[n] = words::to_fp16_word(fa, a[k]);
      hb[n] = words::to_fp16_word(fb, b[k]);
      ++n;
    }
  }
  const std::uint32_t sum = words::chain(model, kFp16Word, ha, kFp16Word, hb, depth, 0);
  return model.half ? words::add_fp16(c, sum) : words::add_fp32(c, sum);
}

}  // namespace sage2::cuda
