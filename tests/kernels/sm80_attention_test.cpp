#include "kernels/sm80_attention.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "fmt/core.h"
#include "kernels/device_info.hpp"
#include "kernels/mma_launch.hpp"
#include "kernels/sm89_attention.hpp"
#include "reference/emulate.hpp"
#include "reference/formats.hpp"
#include "tests/kernels/attention_cases.hpp"

/// The mma.sync kernels against the CPU's emulation of the chip at hand.
namespace sage2::cuda {
namespace {

using testing::cases;
using testing::describe;
using testing::run;

/// The tensor cores' accumulators on this device.
std::string arch_here() {
  const auto device = find_devices().devices.front();
  return device.major > 9 ? "blackwell" : (device.major == 9 ? "hopper" : (device.minor == 9 ? "ada" : "ampere"));
}

TEST(Sm80Attention, EqualsTheEmulationBitForBit) {
  if (find_devices().devices.empty()) GTEST_SKIP() << find_devices().why_none;
  const std::string fp16 = ":p=fp16,v=fp16,arch=" + arch_here();
  for (const auto& text : {"sage2-4b" + fp16, "sage2-4b-v1" + fp16, "sage2pp-4b" + fp16, "sage2-8b" + fp16,
                           "sage2-8b" + fp16 + ",pv_accum=fp32,qk_gran=per_token,smooth_v=on",
                           "sage1:arch=" + arch_here(), "sage1:arch=" + arch_here() + ",o=fp16,smooth_q=on",
                           "int4-hadamard" + fp16, "int4" + fp16 + ",q=int3,k=int5,qk_gran=per_tensor"}) {
    for (const auto& c : cases()) {
      ASSERT_TRUE(sm80_supports(parse_variant(text), static_cast<std::int64_t>(c.spec.head_dim))) << text;
    }
    testing::expect_the_emulation(text, cases(), sm80_attention);
  }
}

/// On Ada bit for bit. For Hopper the compiler makes FP8 products of FP16 ones, whose sums in FP32 are exact to 24
/// bits, 16 tiles of them. FP16 accumulators are rounded six times a tile there and four times on Ada: ten halves of
/// FP16's last place, which is 2^-11. Errors are relative to the largest value of V, since a row of O is a mean of rows
/// of V.
TEST(Sm89Attention, AgreesWithTheEmulation) {
  if (find_devices().devices.empty()) GTEST_SKIP() << find_devices().why_none;
  const auto device = find_devices().devices.front();
  if (device.major * 10 + device.minor < 89) GTEST_SKIP() << "this chip has no FP8";
  if (!sm89_supports(parse_variant("sage2-4b"), 64)) GTEST_SKIP() << "compiled by a CUDA before 12.8";
  const bool native = device.major == 8;
  for (const std::string text : {"sage2-4b", "sage2-4b-v1", "sage2pp-4b", "sage2-8b", "sage2-8b:pv_accum=fp32",
                                 "sage2pp-8b:smooth_q=on,smooth_v=on"}) {
    const Variant variant = parse_variant(text);
    Variant exact = variant;
    exact.pv_accum = PvAccum::exact;
    const bool half = variant.pv_accum == PvAccum::fp32_fp16;
    const double tolerance = half ? 0x1p-8 : 0x1p-17;
    std::size_t compared = 0;
    std::size_t identical = 0;
    double worst = 0;
    for (const auto& c : cases()) {
      ASSERT_TRUE(sm89_supports(variant, static_cast<std::int64_t>(c.spec.head_dim))) << text;
      const auto many = testing::random_heads(c.spec, c.q_heads, c.kv_heads);
      const auto out = run(many, variant, sm89_attention);
      for (std::size_t h = 0; h < many.heads.size(); ++h) {
        const auto& head = many.heads[h];
        const auto truth = emulate(head, variant);
        const auto near = half ? truth : emulate(head, exact);
        double largest = 0;
        for (const float x : head.v.data) largest = std::max(largest, static_cast<double>(std::fabs(x)));
        const std::size_t size = truth.o.data.size();
        for (std::size_t i = 0; i < size; ++i) {
          const float x = out.o[h * size + i];
          ++compared;
          identical += std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(truth.o.data[i]) ? 1 : 0;
          const auto reference = static_cast<double>(near.o.data[i]);
          const double error = std::fabs(static_cast<double>(x) - reference) / largest;
          worst = error <= worst ? worst : error;
        }
        EXPECT_EQ(out.counts[h].p_underflow, truth.p_underflow) << text << ", " << describe(c);
        EXPECT_EQ(out.counts[h].p_total, truth.p_total) << text << ", " << describe(c);
      }
    }
    fmt::print("{}: worst error 2^{:.2f} of the largest V, {} of {} values as {}\n", text, std::log2(worst), identical,
               compared, canonical(variant));
    EXPECT_FALSE(!(worst <= tolerance)) << text;
    if (native) {
      EXPECT_EQ(identical, compared) << text;
    }
  }
}

TEST(MmaAttention, SupportsWhatItSays) {
  EXPECT_TRUE(mma::supports(parse_variant("sage2pp-4b"), 64, Format::e4m3));
  EXPECT_TRUE(mma::supports(parse_variant("sage2-4b:v_outliers=clip,v_gran=per_tensor"), 64, Format::e4m3));
  EXPECT_TRUE(sm80_supports(parse_variant("sage1"), 128));
  EXPECT_FALSE(sm80_supports(parse_variant("sage1"), 129));
  EXPECT_FALSE(sm80_supports(parse_variant("sage2-4b"), 64));
  EXPECT_FALSE(sm80_supports(parse_variant("fp16"), 64));
  EXPECT_FALSE(sm80_supports(parse_variant("sage1:geometry=64x128w16"), 64));
  EXPECT_FALSE(sm80_supports(parse_variant("sage1:pv_accum=fp16"), 64));
  EXPECT_FALSE(sm89_supports(parse_variant("sage2-4b:v_outliers=split"), 64));
  EXPECT_FALSE(sm89_supports(parse_variant("sage2-4b:v_gran=per_block"), 64));
  EXPECT_FALSE(sm89_supports(parse_variant("sage2-4b:p=e5m2,v=e5m2"), 64));
  EXPECT_FALSE(sm89_supports(parse_variant("sage2-4b:pv_accum=exact"), 64));
}

}  // namespace
}  // namespace sage2::cuda
