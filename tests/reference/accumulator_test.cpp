#include "reference/accumulator.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "reference/formats.hpp"
#include "reference/panel.hpp"
#include "reference/strip.hpp"

namespace sage2 {
namespace {

__extension__ using Int128 = __int128;

/// Fixed-point oracle with nothing in common with the model's code: 128-bit integers in units of 2^-96.
float by_integers(const AccumulatorModel& m, float c, const std::vector<float>& a, int least_a,
                  const std::vector<float>& b, int least_b) {
  const auto split = [](float x, int least, int& e) {  // x = mantissa * 2^(e - 23), e as the hardware sees it
    int raw = 0;
    const double f = std::frexp(static_cast<double>(x), &raw);
    e = std::max(raw - 1, least);
    return static_cast<Int128>(std::llround(std::ldexp(f, raw + 23 - e)));
  };
  int largest = -1000;
  struct Term {
    Int128 mantissa;
    int e;  // value = mantissa * 2^e
  };
  std::vector<Term> terms;
  if (c != 0) {
    int e = 0;
    const auto mantissa = split(c, m.half ? -14 : -126, e);
    largest = e;
    terms.push_back({mantissa, e - 23});
  }
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == 0 || b[i] == 0) continue;
    int ea = 0;
    int eb = 0;
    const auto ma = split(a[i], least_a, ea);
    const auto mb = split(b[i], least_b, eb);
    largest = std::max(largest, ea + eb);
    terms.push_back({ma * mb, ea + eb - 46});
  }
  if (terms.empty()) return 0;
  if (!m.half) largest = std::max(largest, -133);
  const int unit = largest - m.fraction;
  Int128 sum = 0;
  for (const auto& t : terms) {
    const int shift = t.e - unit;
    const Int128 magnitude = t.mantissa < 0 ? -t.mantissa : t.mantissa;
    const Int128 cut = shift >= 0 ? magnitude << shift : (shift > -120 ? magnitude >> -shift : 0);
    sum += t.mantissa < 0 ? -cut : cut;
  }
  if (sum == 0) return 0;
  const Int128 magnitude = sum < 0 ? -sum : sum;
  int top = 0;
  while ((magnitude >> (top + 1)) != 0) ++top;
  if (m.half) {
    const int exponent = std::max(top + unit, -14);
    const int drop = exponent - 10 - unit;  // unit of FP16 in units of the sum
    Int128 kept = magnitude;
    if (drop > 0) {
      kept = magnitude >> drop;
      const Int128 rest = magnitude - (kept << drop);
      const Int128 middle = static_cast<Int128>(1) << (drop - 1);
      if (rest > middle || (rest == middle && (kept & 1) != 0)) ++kept;
      kept <<= drop;
    }
    const double value = std::ldexp(static_cast<double>(kept), unit) * (sum < 0 ? -1 : 1);
    return std::fabs(value) > 65504 ? std::copysign(INFINITY, static_cast<float>(value)) : static_cast<float>(value);
  }
  const int drop = top - m.out_fraction;
  const Int128 kept = drop > 0 ? (magnitude >> drop) << drop : magnitude;
  return static_cast<float>(std::ldexp(static_cast<double>(kept), unit) * (sum < 0 ? -1 : 1));
}

struct Case {
  Arch arch;
  Format format;
  bool half;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto arch : {Arch::ampere, Arch::ada, Arch::hopper, Arch::blackwell}) {
    for (const auto format : {Format::e4m3, Format::e5m2, Format::fp16}) {
      for (const bool half : {false, true}) {
        if (arch != Arch::ampere || !is_fp8(format)) all.push_back({arch, format, half});
      }
    }
  }
  return all;
}

/// A random value of the format over most of its exponents, some of them zero or subnormal.
float random_operand(std::mt19937_64& random, Format f) {
  const auto r = random();
  if (r % 16 == 0) return 0;
  const int spread = f == Format::e4m3 ? 16 : 30;
  const float x =
      std::ldexp(static_cast<float>((r >> 8U) % 4096) / 2048, static_cast<int>((r >> 32U) % spread) - spread / 2 - 2);
  return round_to(f, (r >> 60U) % 2 == 0 ? x : -x);
}

TEST(Accumulator, ModelAgreesWithFixedPoint) {
  std::mt19937_64 random(11);
  for (const auto& [arch, format, half] : cases()) {
    const auto model = accumulator_model(arch, format, format, half);
    const int least = least_exponent(format);
    for (int trial = 0; trial < 400; ++trial) {
      float expected = 0;
      float found = 0;
      for (int step = 0; step < 6; ++step) {
        std::vector<float> a(static_cast<std::size_t>(model.group));
        std::vector<float> b(a.size());
        for (std::size_t i = 0; i < a.size(); ++i) {
          a[i] = random_operand(random, format);
          b[i] = random_operand(random, format);
        }
        if (!std::isfinite(expected)) break;
        expected = by_integers(model, expected, a, least, b, least);
        found = accumulate_group(model, found, a, least, b, least);
        ASSERT_EQ(found, expected) << "arch " << static_cast<int>(arch) << " format " << static_cast<int>(format);
      }
    }
  }
}

/// The vectorised panels against the plain model, over several groups, with every column count.
TEST(Accumulator, PanelsAgreeWithTheModel) {
  std::mt19937_64 random(12);
  for (const auto& [arch, format, half] : cases()) {
    const auto model = accumulator_model(arch, format, format, half);
    const int least = least_exponent(format);
    for (const std::size_t n : {1U, 3U, 4U, 7U}) {
      const std::size_t depth = 64;
      AlignedVector<float> a(depth * kStrip);
      std::vector<float> b(depth * n);
      for (float& x : a) x = random_operand(random, format);
      for (float& x : b) x = random_operand(random, format);
      std::vector<std::int8_t> ea(a.size());
      std::vector<std::int8_t> eb(b.size());
      operand_exponents(a.data(), a.size(), least, ea.data());
      operand_exponents(b.data(), b.size(), least, eb.data());
      AlignedVector<float> narrow(n * kStrip);
      accumulate_narrow(model, depth, n, a.data(), ea.data(), {b.data(), n, 1}, {eb.data(), n, 1}, narrow.data());
      for (std::size_t j = 0; j < n; ++j) {
        for (std::size_t r = 0; r < kStrip; ++r) {
          float c = 0;
          const auto group = static_cast<std::size_t>(model.group);
          for (std::size_t k0 = 0; k0 < depth; k0 += group) {
            std::vector<float> x(group);
            std::vector<float> y(group);
            for (std::size_t k = 0; k < group; ++k) {
              x[k] = a[(k0 + k) * kStrip + r];
              y[k] = b[(k0 + k) * n + j];
            }
            c = accumulate_group(model, c, x, least, y, least);
          }
          ASSERT_EQ(narrow[j * kStrip + r], c) << "arch " << static_cast<int>(arch) << " format "
                                               << static_cast<int>(format) << " half " << half << " n " << n;
        }
      }
    }
  }
}

/// The wide panel sees FP32's exponents, so it must agree with the model whose least exponents are FP32's.
TEST(Accumulator, WidePanelAgreesWithTheModel) {
  std::mt19937_64 random(13);
  for (const bool half : {false, true}) {
    const auto model = accumulator_model(Arch::ada, Format::exact, Format::exact, half);
    const std::size_t depth = 32;
    const std::size_t n = 3;
    AlignedVector<float> a(depth * kStrip);
    std::vector<float> b(depth * n);
    const auto fill = [&](auto& values) {
      for (float& x : values)
        x = static_cast<float>(static_cast<std::int64_t>(random() % 2000001) - 1000000) * 0x1p-18F;
    };
    fill(a);
    fill(b);
    AlignedVector<float> c(n * kStrip);
    accumulate_wide(model, depth, n, a.data(), {b.data(), n, 1}, c.data());
    for (std::size_t j = 0; j < n; ++j) {
      for (std::size_t r = 0; r < kStrip; ++r) {
        float expected = 0;
        for (std::size_t k0 = 0; k0 < depth; k0 += 16) {
          std::vector<float> x(16);
          std::vector<float> y(16);
          for (std::size_t k = 0; k < 16; ++k) {
            x[k] = a[(k0 + k) * kStrip + r];
            y[k] = b[(k0 + k) * n + j];
          }
          expected = by_integers(model, expected, x, -126, y, -126);
        }
        ASSERT_EQ(c[j * kStrip + r], expected);
      }
    }
  }
}

/// Hand-made cases that name the rules.
TEST(Accumulator, KnownAnswers) {
  const auto ada = accumulator_model(Arch::ada, Format::e4m3, Format::e4m3, false);
  const std::vector<float> one{1};
  const std::vector<float> small{0x1p-9F};
  // 1 + 2^-14 is cut to 1: only 13 fraction bits survive; an FP32 sum would keep it.
  EXPECT_EQ(accumulate_group(ada, 1, small, -6, std::vector<float>{0x1p-5F}, -6), 1.0F);
  EXPECT_EQ(accumulate_group(ada, 1, small, -6, std::vector<float>{0x1p-4F}, -6), 1.0F + 0x1p-13F);
  // Truncation is toward zero on both sides.
  EXPECT_EQ(accumulate_group(ada, -1, small, -6, std::vector<float>{-0x1p-5F}, -6), -1.0F);
  // Once C reaches 2^22, products below 512 vanish.
  EXPECT_EQ(accumulate_group(ada, 0x1p22F, std::vector<float>{256}, -6, std::vector<float>{1.875F}, -6), 0x1p22F);
  EXPECT_EQ(accumulate_group(ada, 0x1p22F, std::vector<float>{256}, -6, std::vector<float>{2}, -6), 0x1p22F + 512);
  // FP16 accumulators round to nearest even, and overflow.
  const auto half = accumulator_model(Arch::ada, Format::e4m3, Format::e4m3, true);
  EXPECT_EQ(accumulate_group(half, 2048, one, -6, one, -6), 2048.0F);
  EXPECT_EQ(accumulate_group(half, 2050, one, -6, one, -6), 2052.0F);
  EXPECT_EQ(accumulate_group(half, 65504, std::vector<float>{16}, -6, one, -6), INFINITY);
  EXPECT_EQ(accumulate_group(half, INFINITY, one, -6, std::vector<float>{-1}, -6), INFINITY);
}

}  // namespace
}  // namespace sage2
