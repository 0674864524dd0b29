#include "kernels/accumulator_words.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "reference/accumulator.hpp"
#include "reference/formats.hpp"

/// The model in integers, which judges the hardware, against the model in FP64 that the emulation is tested with.
namespace sage2::cuda {
namespace {

struct Operand {
  WordFormat word;
  Format format;
};
constexpr Operand kE4m3{kE4m3Word, Format::e4m3};
constexpr Operand kE5m2{kE5m2Word, Format::e5m2};
constexpr Operand kFp16{kFp16Word, Format::fp16};
constexpr Operand kBf16{kBf16Word, Format::bf16};

float value_of(WordFormat f, std::uint32_t word) {
  const Unpacked u = unpack(f, word);
  return static_cast<float>(std::ldexp(static_cast<double>(u.mantissa), u.exponent - f.mantissa_bits));
}

/// A finite word; exponents near the middle where `narrow`, so that BF16 does not leave FP32's range.
std::uint32_t random_word(WordFormat f, std::mt19937_64& generator) {
  const auto random = [&] { return static_cast<std::uint32_t>(generator() >> 32U); };
  const std::uint32_t highest = (1U << f.exponent_bits) - 1U - (f.has_infinity ? 1U : 0U);
  std::uint32_t exponent = random() % (highest + 1);
  if (f.exponent_bits == 8) exponent = 87 + random() % 80;
  std::uint32_t mantissa = random() & ((1U << f.mantissa_bits) - 1U);
  if (!f.has_infinity && exponent == highest && mantissa + 1 == 1U << f.mantissa_bits) --mantissa;
  return ((random() & 1U) << (f.bits() - 1)) | (exponent << f.mantissa_bits) | mantissa;
}

TEST(AccumulatorWords, UnpacksEveryCode) {
  for (const auto& [word, format] : {kE4m3, kE5m2, kFp16, kBf16}) {
    for (std::uint32_t w = 0; w < 1U << word.bits(); ++w) {
      const float x = value_of(word, w);
      const Unpacked u = unpack(word, w);
      const std::uint32_t field = (w >> word.mantissa_bits) & ((1U << word.exponent_bits) - 1U);
      if (word.has_infinity && field + 1 == 1U << word.exponent_bits) continue;
      if (!word.has_infinity && (w & 0x7FU) == 0x7FU) continue;
      ASSERT_EQ(round_to(format, x), x) << w;
      if (x == 0) continue;
      ASSERT_EQ(u.exponent, std::max(std::ilogb(x), least_exponent(format))) << w;
    }
  }
}

TEST(AccumulatorWords, AgreeWithTheModelInFloatingPoint) {
  std::mt19937_64 random(21);
  const std::pair<Operand, Operand> pairs[] = {
      {kE4m3, kE4m3}, {kE5m2, kE5m2}, {kE4m3, kE5m2}, {kFp16, kFp16}, {kBf16, kBf16}};
  for (const auto arch : {Arch::ampere, Arch::ada, Arch::hopper, Arch::blackwell}) {
    for (const auto& [a, b] : pairs) {
      for (const bool half : {false, true}) {
        if (half && a.format == Format::bf16) continue;
        if (arch == Arch::ampere && is_fp8(a.format)) continue;
        const auto model = accumulator_model(arch, a.format, b.format, half);
        const WordModel words{model.group, model.fraction, model.out_fraction, half};
        const int depth = is_fp8(a.format) ? 32 : 16;
        std::uint32_t c = 0;
        for (int trial = 0; trial < 3000; ++trial) {
          std::uint16_t wa[32];
          std::uint16_t wb[32];
          std::vector<float> xa;
          std::vector<float> xb;
          for (int k = 0; k < depth; ++k) {
            wa[k] = static_cast<std::uint16_t>(random_word(a.word, random));
            wb[k] = static_cast<std::uint16_t>(random_word(b.word, random));
            if (trial % 3 == 0 && k % 2 == 1) {  // nearly cancelling pairs
              wa[k] = wa[k - 1];
              wb[k] =
                  static_cast<std::uint16_t>(wb[k - 1] ^ (1U << (b.word.bits() - 1)) ^ (random() % 4 == 0 ? 1U : 0U));
              if (b.format == Format::e4m3 && (wb[k] & 0x7FU) == 0x7FU) wb[k] ^= 1U;
            }
            xa.push_back(value_of(a.word, wa[k]));
            xb.push_back(value_of(b.word, wb[k]));
          }
          const WordFormat fc = half ? kFp16Word : kFp32Word;
          if (trial % 4 == 1) c = half ? random_word(fc, random) : random_word(kFp32Word, random);
          if (trial % 4 == 2) c = 0;
          float expected = value_of(fc, c);
          for (int k = 0; k < depth && std::isfinite(expected); k += model.group) {
            expected = accumulate_group(
                model, expected, {xa.data() + k, static_cast<std::size_t>(model.group)}, least_exponent(a.format),
                {xb.data() + k, static_cast<std::size_t>(model.group)}, least_exponent(b.format));
          }
          const auto found = accumulate_words(words, a.word, wa, b.word, wb, depth, c);
          const std::uint32_t infinity = half ? 0x7C00U : 0x7F800000U;
          if (!std::isfinite(expected)) {
            ASSERT_EQ(found & infinity, infinity);
            c = 0;
            continue;
          }
          ASSERT_EQ(value_of(fc, found), expected)
              << "arch " << static_cast<int>(arch) << " " << static_cast<int>(a.format) << " half " << half << " trial "
              << trial;
          c = found;
        }
      }
    }
  }
}

/// FP8 words become FP16 without loss, and the model through FP16 equals one that is put together by hand.
TEST(AccumulatorWords, UnpackingIsExactAndOrdered) {
  for (std::uint32_t w = 0; w < 256; ++w) {
    if ((w & 0x7FU) != 0x7FU) {
      EXPECT_EQ(value_of(kFp16Word, words::to_fp16_word(kE4m3Word, static_cast<std::uint16_t>(w))),
                value_of(kE4m3Word, w));
    }
    if ((w & 0x7CU) != 0x7CU) {
      EXPECT_EQ(value_of(kFp16Word, words::to_fp16_word(kE5m2Word, static_cast<std::uint16_t>(w))),
                value_of(kE5m2Word, w));
    }
  }
  std::mt19937_64 random(22);
  const auto model = accumulator_model(Arch::hopper, Format::fp16, Format::fp16, false);
  const WordModel words{model.group, model.fraction, model.out_fraction, false, true};
  for (int trial = 0; trial < 2000; ++trial) {
    std::uint16_t a[32];
    std::uint16_t b[32];
    std::vector<float> xa[2];
    std::vector<float> xb[2];
    for (std::size_t k = 0; k < 32; ++k) {
      a[k] = static_cast<std::uint16_t>(random_word(kE4m3Word, random));
      b[k] = static_cast<std::uint16_t>(random_word(kE4m3Word, random));
      xa[k % 4 / 2].push_back(value_of(kE4m3Word, a[k]));
      xb[k % 4 / 2].push_back(value_of(kE4m3Word, b[k]));
    }
    const float c = value_of(kFp32Word, random_word(kFp32Word, random));
    const float first = accumulate_group(model, 0, xa[0], -14, xb[0], -14);
    const float expected = c + accumulate_group(model, first, xa[1], -14, xb[1], -14);
    const auto found = accumulate_words(words, kE4m3Word, a, kE4m3Word, b, 32, std::bit_cast<std::uint32_t>(c));
    ASSERT_EQ(std::bit_cast<float>(found), expected);
  }
}

}  // namespace
}  // namespace sage2::cuda
