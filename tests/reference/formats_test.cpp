#include "reference/formats.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "Eigen/Core"
#include "reference/exp2.hpp"
#ifdef SAGE2_HAVE_CUDA_FP8
#include <cuda_fp8.h>
#endif

namespace sage2 {
namespace {

/// Value of a code of a small float, straight from its definition: sign, exponent bits, fraction bits.
double decode(unsigned code, int exponent_bits, int fraction_bits) {
  const unsigned fraction = code & ((1U << fraction_bits) - 1U);
  const unsigned exponent = (code >> fraction_bits) & ((1U << exponent_bits) - 1U);
  const double sign = (code >> (exponent_bits + fraction_bits)) != 0 ? -1 : 1;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double scale = std::ldexp(1.0, fraction_bits);
  if (exponent == 0) return sign * std::ldexp(fraction / scale, 1 - bias);
  return sign * std::ldexp(1 + fraction / scale, static_cast<int>(exponent) - bias);
}

/// All non-negative finite values of a format, ascending; their index's last bit is the code's last bit.
std::vector<double> values(int exponent_bits, int fraction_bits, unsigned codes) {
  std::vector<double> out;
  for (unsigned c = 0; c < codes; ++c) out.push_back(decode(c, exponent_bits, fraction_bits));
  return out;
}

/// Nearest value with ties to the even code, by search: the definition, independent of any bit trick.
double nearest(const std::vector<double>& grid, double x) {
  const auto above = std::lower_bound(grid.begin(), grid.end(), x);
  if (above == grid.end()) return grid.back();
  if (above == grid.begin() || *above == x) return *above;
  const auto below = above - 1;
  const double down = x - *below;
  const double up = *above - x;
  if (down != up) return down < up ? *below : *above;
  return (below - grid.begin()) % 2 == 0 ? *below : *above;
}

/// Every value, every midpoint of neighbours, and the FP32 numbers beside each, of both signs.
template <class Round>
void check_grid(const std::vector<double>& grid, const Round& round) {
  for (std::size_t i = 0; i + 1 < grid.size(); ++i) {
    const auto exact = static_cast<float>(grid[i]);
    const auto middle = static_cast<float>((grid[i] + grid[i + 1]) / 2);
    for (const float x : {exact, middle}) {
      for (const float y : {std::nextafter(x, 0.0F), x, std::nextafter(x, INFINITY)}) {
        if (y < 0) continue;
        const double expected = nearest(grid, static_cast<double>(y));
        ASSERT_EQ(static_cast<double>(round(y)), expected) << y;
        ASSERT_EQ(static_cast<double>(round(-y)), -expected) << -y;
      }
    }
  }
}

TEST(Formats, E4m3AgreesWithItsDefinition) {
  const auto grid = values(4, 3, 127);  // code 127 is NaN
  ASSERT_EQ(grid.back(), 448.0);
  check_grid(grid, round_e4m3);
  for (const float x : {448.0F, 463.9F, 464.0F, 465.0F, 1e30F, INFINITY}) {
    EXPECT_EQ(round_e4m3(x), 448.0F);
    EXPECT_EQ(round_e4m3(-x), -448.0F);
  }
  EXPECT_TRUE(std::isnan(round_e4m3(NAN)));
}

TEST(Formats, E5m2AgreesWithItsDefinition) {
  const auto grid = values(5, 2, 124);  // 124 is infinity, above are NaN
  ASSERT_EQ(grid.back(), 57344.0);
  check_grid(grid, round_e5m2);
  EXPECT_EQ(round_e5m2(1e9F), 57344.0F);
  EXPECT_TRUE(std::isnan(round_e5m2(NAN)));
}

TEST(Formats, Fp16AgreesWithItsDefinitionAndEigen) {
  check_grid(values(5, 10, 0x7C00), round_fp16);
  EXPECT_EQ(round_fp16(65519.99F), 65504.0F);
  EXPECT_EQ(round_fp16(65520.0F), INFINITY);
  EXPECT_EQ(round_fp16(-1e9F), -INFINITY);
  EXPECT_TRUE(std::isnan(round_fp16(NAN)));
  // A stride through all FP32 numbers of FP16's range that is coprime to the grid.
  for (std::uint32_t bits = 0; bits < 0x47800000U; bits += 4099) {
    const auto x = std::bit_cast<float>(bits);
    ASSERT_EQ(round_fp16(x), static_cast<float>(Eigen::half(x))) << x;
  }
}

TEST(Formats, Bf16AgreesWithEigenOverAllUpperHalvesAndTies) {
  for (std::uint32_t high = 0; high < 0x7F80U; ++high) {
    for (const std::uint32_t low : {0x0000U, 0x0001U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFFU}) {
      const auto x = std::bit_cast<float>((high << 16U) | low);
      ASSERT_EQ(round_bf16(x), static_cast<float>(Eigen::bfloat16(x))) << x;
      ASSERT_EQ(round_bf16(-x), static_cast<float>(Eigen::bfloat16(-x))) << -x;
    }
  }
  EXPECT_TRUE(std::isnan(round_bf16(std::bit_cast<float>(0x7F800001U))));
}

#ifdef SAGE2_HAVE_CUDA_FP8
TEST(Formats, Fp8AgreesWithTheCudaToolkit) {
  // Its host conversions, over a stride through all FP32 numbers up to beyond the largest code.
  for (std::uint32_t bits = 0; bits < 0x49000000U; bits += 997) {
    for (const auto x : {std::bit_cast<float>(bits), -std::bit_cast<float>(bits)}) {
      const auto e4m3 = static_cast<float>(__nv_fp8_e4m3(x));
      const auto e5m2 = static_cast<float>(__nv_fp8_e5m2(x));
      ASSERT_EQ(round_e4m3(x), e4m3) << x;
      ASSERT_EQ(round_e5m2(x), e5m2) << x;
    }
  }
}
#endif

TEST(Formats, IntegersRoundAsTheQuantisersDo) {
  for (int twice = -600; twice <= 600; ++twice) {
    const float x = static_cast<float>(twice) / 2;
    EXPECT_EQ(round_half_even(x), std::nearbyint(x)) << x;
    EXPECT_EQ(round_half_away(x), std::round(x)) << x;
  }
  EXPECT_EQ(integer_top(Format::int2), 1.0F);
  EXPECT_EQ(integer_top(Format::int4), 7.0F);
  EXPECT_EQ(integer_top(Format::int8), 127.0F);
}

/// Every FP32 fraction of one binade of results, and a stride through all others, against FP64's exp2. The bound is the
/// stated 1 ulp of the result: 2^-23 relative at a power of two.
TEST(Exp2, WithinOneUlpEverywhere) {
  double worst = 0;
  const auto check = [&](float x) {
    const double exact = std::exp2(static_cast<double>(x));
    const double ulp = std::ldexp(1.0, std::ilogb(exact) - 23);
    worst = std::max(worst, std::fabs(static_cast<double>(exp2_shared(x)) - exact) / ulp);
  };
  for (std::uint32_t i = 0; i < (1U << 23U); i += 3) check(8.0F - static_cast<float>(i) * 0x1p-23F * 8);
  for (std::uint32_t bits = 0x00800000U; bits < std::bit_cast<std::uint32_t>(125.9F); bits += 1009) {
    check(-std::bit_cast<float>(bits));
    check(std::bit_cast<float>(bits));
  }
  EXPECT_TRUE(worst <= 1.0) << worst;
  EXPECT_EQ(exp2_shared(0.0F), 1.0F);
  EXPECT_EQ(exp2_shared(-126.5F), 0.0F);
  EXPECT_EQ(exp2_shared(-INFINITY), 0.0F);
  EXPECT_EQ(exp2_shared(-1e30F), 0.0F);
  EXPECT_TRUE(std::isnan(exp2_shared(NAN)));
  for (int e = -126; e <= 126; ++e) EXPECT_EQ(exp2_shared(static_cast<float>(e)), std::ldexp(1.0F, e));
}

}  // namespace
}  // namespace sage2
