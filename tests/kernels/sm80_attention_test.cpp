#include "kernels/sm80_attention.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "fmt/core.h"
#include "kernels/device_info.hpp"
#include "kernels/sm89_attention.hpp"
#include "reference/emulate.hpp"
#include "reference/formats.hpp"
#include "tests/kernels/uploaded_operands.hpp"

/// The mma.sync kernels against the CPU's emulation of the chip at hand.
namespace sage2::cuda {
namespace {

using sage2::testing::ProblemSpec;
using testing::ManyHeads;

struct Case {
  ProblemSpec spec;
  std::size_t q_heads, kv_heads;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::size_t n : {1U, 63U, 64U, 65U, 127U, 300U, 1000U}) {
    for (const std::size_t d : {64U, 96U, 128U}) {
      all.push_back({{.q_len = n, .kv_len = n, .head_dim = d, .k_bias = 2, .v_bias = 1, .seed = n + d}, 1, 1});
    }
  }
  all.push_back({{.q_len = 200, .kv_len = 200, .head_dim = 64, .q_spread = 3, .seed = 5}, 6, 2});
  all.push_back({{.q_len = 333, .kv_len = 333, .head_dim = 128, .is_causal = true, .seed = 6}, 2, 1});
  all.push_back({{.q_len = 130, .kv_len = 400, .head_dim = 128, .is_causal = true, .q_bias = 2, .seed = 7}, 1, 1});
  // Rows 0 .. 269 see no key.
  all.push_back({{.q_len = 400, .kv_len = 130, .head_dim = 64, .is_causal = true, .seed = 8}, 1, 1});
  all.push_back({{.q_len = 140,
                  .kv_len = 300,
                  .head_dim = 64,
                  .is_causal = true,
                  .causal_align = CausalAlign::top_left,
                  .seed = 9},
                 1,
                 1});
  all.push_back(
      {{.q_len = 77, .kv_len = 500, .head_dim = 40, .q_bias = 3, .k_bias = 5, .v_bias = 8, .seed = 10}, 4, 4});
  return all;
}

struct Output {
  std::vector<float> o;
  std::vector<LoopCounts> counts;
};

template <class Attention>
Output run(const ManyHeads& many, const Variant& variant, const Attention& attention) {
  const Stream stream;
  const auto problem = many.device_problem();
  const auto operands = testing::quantize_on_cpu(many, variant, stream.get());
  DeviceBuffer<float> o(static_cast<std::size_t>(problem.q_count() * problem.q.tokens * problem.v.channels),
                        stream.get());
  DeviceBuffer<LoopCounts> counts(many.heads.size(), stream.get());
  counts.zero();
  attention(problem, variant, operands, o.data(), counts.data(), stream.get());
  return {o.download(), counts.download()};
}

std::string describe(const Case& c) {
  return fmt::format("q {} kv {} d {} heads {}/{}{}", c.spec.q_len, c.spec.kv_len, c.spec.head_dim, c.q_heads,
                     c.kv_heads, c.spec.is_causal ? " causal" : "");
}

/// The tensor cores' accumulators on this device.
std::string arch_here() {
  const auto device = find_devices().devices.front();
  return device.major > 9 ? "blackwell" : (device.major == 9 ? "hopper" : (device.minor == 9 ? "ada" : "ampere"));
}

/// Distance in units of the last place.
std::int64_t ulps(float a, float b) {
  const auto ordered = [](float x) {
    const auto bits = std::bit_cast<std::int32_t>(x);
    return static_cast<std::int64_t>(bits < 0 ? INT32_MIN - static_cast<std::int64_t>(bits) : bits);
  };
  if (std::isnan(a) || std::isnan(b)) return INT64_MAX;
  return std::abs(ordered(a) - ordered(b));
}

/// All the values of one variant over every case: how many have the emulation's bits.
TEST(Sm80Attention, EqualsTheEmulationBitForBit) {
  if (find_devices().devices.empty()) GTEST_SKIP() << find_devices().why_none;
  const std::string fp16 = ":p=fp16,v=fp16,arch=" + arch_here();
  const std::string variants[] = {"sage2-4b" + fp16,
                                  "sage2-4b-v1" + fp16,
                                  "sage2pp-4b" + fp16,
                                  "sage2-8b" + fp16,
                                  "sage2-8b" + fp16 + ",pv_accum=fp32,qk_gran=per_token,smooth_v=on",
                                  "sage1:arch=" + arch_here(),
                                  "sage1:arch=" + arch_here() + ",o=fp16,smooth_q=on",
                                  "int4-hadamard" + fp16,
                                  "int4" + fp16 + ",q=int3,k=int5,qk_gran=per_tensor"};
  for (const auto& text : variants) {
    const Variant variant = parse_variant(text);
    std::size_t compared = 0;
    std::size_t identical = 0;
    std::int64_t worst = 0;
    std::string first;
    for (const auto& c : cases()) {
      ASSERT_TRUE(sm80_supports(variant, static_cast<std::int64_t>(c.spec.head_dim))) << text;
      const auto many = testing::random_heads(c.spec, c.q_heads, c.kv_heads);
      const auto out = run(many, variant, sm80_attention);
      for (std::size_t h = 0; h < many.heads.size(); ++h) {
        const auto truth = emulate(many.heads[h], variant);
        const std::size_t size = truth.o.data.size();
        for (std::size_t i = 0; i < size; ++i) {
          const float x = out.o[h * size + i];
          const float y = truth.o.data[i];
          ++compared;
          if (std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y)) {
            ++identical;
            continue;
          }
          worst = std::max(worst, ulps(x, y));
          if (first.empty()) {
            first = fmt::format("; first: {}, head {} row {} channel {}: {} instead of {}", describe(c), h,
                                i / c.spec.head_dim, i % c.spec.head_dim, x, y);
          }
        }
        EXPECT_EQ(out.counts[h].p_underflow, truth.p_underflow) << text << ", " << describe(c);
        EXPECT_EQ(out.counts[h].p_total, truth.p_total) << text << ", " << describe(c);
      }
    }
    fmt::print("{}: {} of {} values identical, worst {} ulp{}\n", text, identical, compared, worst, first);
    EXPECT_EQ(identical, compared) << text;
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
  EXPECT_TRUE(sm80_supports(parse_variant("sage1"), 128));
  EXPECT_FALSE(sm80_supports(parse_variant("sage1"), 129));
  EXPECT_FALSE(sm80_supports(parse_variant("sage2-4b"), 64));
  EXPECT_FALSE(sm80_supports(parse_variant("fp16"), 64));
  EXPECT_FALSE(sm80_supports(parse_variant("sage1:geometry=64x128w16"), 64));
  EXPECT_FALSE(sm80_supports(parse_variant("sage1:pv_accum=fp16"), 64));
  EXPECT_TRUE(sm89_supports(parse_variant("sage2pp-4b"), 64));
  EXPECT_TRUE(sm89_supports(parse_variant("sage2-4b:v_outliers=clip,v_gran=per_tensor"), 64));
  EXPECT_FALSE(sm89_supports(parse_variant("sage2-4b:v_outliers=split"), 64));
  EXPECT_FALSE(sm89_supports(parse_variant("sage2-4b:v_gran=per_block"), 64));
  EXPECT_FALSE(sm89_supports(parse_variant("sage2-4b:p=e5m2,v=e5m2"), 64));
  EXPECT_FALSE(sm89_supports(parse_variant("sage2-4b:pv_accum=exact"), 64));
}

}  // namespace
}  // namespace sage2::cuda
