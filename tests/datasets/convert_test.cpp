#include "datasets/convert.hpp"

#include <Eigen/Core>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"

// Every code of both formats against Eigen's independent conversions; bits, not values, are compared.
namespace sage2 {
namespace {

std::vector<std::uint16_t> all_codes() {
  std::vector<std::uint16_t> codes(65536);
  std::iota(codes.begin(), codes.end(), std::uint16_t{0});
  return codes;
}

std::uint32_t bits(float x) {
  return std::bit_cast<std::uint32_t>(x);
}

float eigen_widen_half(std::uint16_t code) {
  return Eigen::half_impl::half_to_float(Eigen::half_impl::raw_uint16_to_half(code));
}
std::uint16_t eigen_narrow_half(float x) {
  return Eigen::half_impl::float_to_half_rtne(x).x;
}
std::uint16_t eigen_narrow_brain(float x) {
  return Eigen::bfloat16(x).value;
}

/// FP32 values where rounding to a 16-bit format is decided: each code, the midpoint to its successor, and the FP32
/// neighbours of both; then a stride through all bit patterns (prime, so that all low bits occur).
std::vector<float> hard_values(const std::vector<float>& codes) {
  std::vector<float> values;
  const float inf = std::numeric_limits<float>::infinity();
  for (std::size_t i = 0; i < codes.size(); ++i) {
    if (!std::isfinite(codes[i])) continue;
    // Computed in double, so that the midpoint beyond the largest finite code is there as well.
    const double next = i + 1 < codes.size() && std::isfinite(codes[i + 1])
                            ? static_cast<double>(codes[i + 1])
                            : 2.0 * static_cast<double>(codes[i]) - static_cast<double>(codes[i - 1]);
    for (const double center : {static_cast<double>(codes[i]), 0.5 * (static_cast<double>(codes[i]) + next)}) {
      const auto x = static_cast<float>(center);
      values.insert(values.end(), {x, std::nextafter(x, inf), std::nextafter(x, -inf)});
    }
  }
  for (std::uint64_t pattern = 0; pattern < (std::uint64_t{1} << 32); pattern += 4099) {
    values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(pattern)));
  }
  return values;
}

TEST(Convert, WidensEveryFloat16CodeAsEigenDoes) {
  const auto codes = all_codes();
  std::vector<float> wide(codes.size());
  widen_float16(codes, wide);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const float expected = eigen_widen_half(codes[i]);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(wide[i])) << i;
      ASSERT_EQ(std::signbit(wide[i]), std::signbit(expected)) << i;
    } else {
      ASSERT_EQ(bits(wide[i]), bits(expected)) << i;
    }
  }
}

TEST(Convert, WidensEveryBFloat16CodeAsEigenDoes) {
  const auto codes = all_codes();
  std::vector<float> wide(codes.size());
  widen_bfloat16(codes, wide);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const auto expected = static_cast<float>(Eigen::bfloat16(Eigen::bfloat16_impl::raw_uint16_to_bfloat16(codes[i])));
    ASSERT_EQ(bits(wide[i]), bits(expected)) << i;
  }
}

TEST(Convert, NarrowsToFloat16AsEigenDoes) {
  const auto codes = all_codes();
  std::vector<float> wide(codes.size());
  widen_float16(codes, wide);
  const auto values = hard_values(wide);
  std::vector<std::uint16_t> narrow(values.size());
  narrow_float16(values, narrow);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(values[i])) {
      ASSERT_EQ(narrow[i] & 0x7e00U, 0x7e00U) << values[i];
      ASSERT_EQ((narrow[i] >> 15) != 0, std::signbit(values[i]));
    } else {
      ASSERT_EQ(narrow[i], eigen_narrow_half(values[i])) << bits(values[i]);
    }
  }
}

TEST(Convert, NarrowsToBFloat16AsEigenDoes) {
  const auto codes = all_codes();
  std::vector<float> wide(codes.size());
  widen_bfloat16(codes, wide);
  const auto values = hard_values(wide);
  std::vector<std::uint16_t> narrow(values.size());
  narrow_bfloat16(values, narrow);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(values[i])) {
      ASSERT_EQ(narrow[i] & 0x7fc0U, 0x7fc0U) << values[i];
      ASSERT_EQ((narrow[i] >> 15) != 0, std::signbit(values[i]));
    } else {
      ASSERT_EQ(narrow[i], eigen_narrow_brain(values[i])) << bits(values[i]);
    }
  }
}

TEST(Convert, EveryCodeSurvivesTheWayThereAndBack) {
  const auto codes = all_codes();
  std::vector<float> wide(codes.size());
  std::vector<std::uint16_t> back(codes.size());
  widen_float16(codes, wide);
  narrow_float16(wide, back);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const bool nan = (codes[i] & 0x7fffU) > 0x7c00U;
    ASSERT_EQ(back[i], nan ? codes[i] | 0x200U : codes[i]);  // NaN become quiet
  }
  widen_bfloat16(codes, wide);
  narrow_bfloat16(wide, back);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const bool nan = (codes[i] & 0x7fffU) > 0x7f80U;
    ASSERT_EQ(back[i], nan ? codes[i] | 0x40U : codes[i]);
  }
}

// Lengths below, at and beyond a vector register, so that the loop's remainder is tested too.
TEST(Convert, AgreesWithItselfAtEveryLength) {
  const auto codes = all_codes();
  std::vector<float> all(codes.size());
  widen_float16(codes, all);
  for (std::size_t n = 0; n < 70; ++n) {
    std::vector<float> wide(n, -1.0F);
    widen_float16(std::span(codes).subspan(0x3c00, n), wide);
    for (std::size_t i = 0; i < n; ++i) EXPECT_EQ(wide[i], all[0x3c00 + i]);
  }
}

TEST(Convert, RoundsAsTheFormatDoes) {
  std::vector<float> values{1.0F / 3.0F, 70000.0F, 1e-9F};
  round_to(DType::float16, values);
  EXPECT_EQ(values[0], 1365.0F / 4096.0F);  // 11 significant bits
  EXPECT_TRUE(std::isinf(values[1]));
  EXPECT_EQ(values[2], 0.0F);
  values = {1.0F / 3.0F, 70000.0F};
  round_to(DType::bfloat16, values);
  EXPECT_EQ(values[0], 171.0F / 512.0F);  // 8 significant bits
  EXPECT_EQ(values[1], 70144.0F);
  values = {1.0F / 3.0F};
  round_to(DType::float32, values);
  EXPECT_EQ(values[0], 1.0F / 3.0F);
}

/// All codes at once: what the widened matrix has, found in the stored bits.
TEST(Convert, FindsNonFiniteValuesInStoredBits) {
  const auto codes = all_codes();
  Matrix m(256, 256);
  for (const DType dtype : {DType::float16, DType::bfloat16, DType::float32}) {
    dtype == DType::float16 ? widen_float16(codes, m.data) : widen_bfloat16(codes, m.data);
    const auto expected = first_nonfinite(m);
    const auto bytes = dtype == DType::float32 ? std::as_bytes(std::span(m.data)) : std::as_bytes(std::span(codes));
    const auto found = first_nonfinite(dtype, bytes, 256);
    ASSERT_TRUE(expected && found);
    EXPECT_EQ(found->count, expected->count);
    EXPECT_EQ(found->row, expected->row);
    EXPECT_EQ(found->col, expected->col);
    // Everything before the first one is finite.
    const std::size_t before = expected->row * 256 + expected->col;
    EXPECT_FALSE(first_nonfinite(dtype, bytes.first(before * byte_size(dtype)), 256));
  }
}

TEST(Convert, SwapsBytes) {
  std::vector<std::uint16_t> two{0x1234, 0x00ff};
  swap_bytes(std::span(two));
  EXPECT_EQ(two, (std::vector<std::uint16_t>{0x3412, 0xff00}));
  std::vector<std::uint32_t> four{0x12345678};
  swap_bytes(std::span(four));
  EXPECT_EQ(four[0], 0x78563412U);
}

}  // namespace
}  // namespace sage2
