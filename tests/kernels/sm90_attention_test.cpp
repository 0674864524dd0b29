#include <gtest/gtest.h>

#include "kernels/sm90_native.hpp"
#include "tests/kernels/attention_cases.hpp"
#include "tests/kernels/hopper.hpp"

/// The Hopper kernels against the CPU's emulation.
namespace sage2::cuda {
namespace {

using sage2::testing::no_hopper;

TEST(Sm90Attention, EqualsTheEmulationBitForBit) {
  if (const auto why = no_hopper(); !why.empty()) GTEST_SKIP() << why;
  auto all = testing::cases();
  // Head dim 256, and lengths around the tiles of 128 keys and the blocks of 192 rows.
  all.push_back({{.q_len = 300, .kv_len = 300, .head_dim = 256, .k_bias = 2, .seed = 21}, 2, 1});
  all.push_back({{.q_len = 257, .kv_len = 511, .head_dim = 256, .is_causal = true, .seed = 22}, 1, 1});
  all.push_back({{.q_len = 193, .kv_len = 129, .head_dim = 128, .q_bias = 1, .v_bias = 4, .seed = 23}, 4, 1});
  all.push_back({{.q_len = 385, .kv_len = 385, .head_dim = 64, .is_causal = true, .q_spread = 4, .seed = 24}, 1, 1});
  for (const std::string text :
       {"sage2-8b@hopper", "sage2-4b@hopper", "sage2-4b-v1@hopper", "sage2-8b@hopper:pv_accum=fp32,smooth_v=on",
        "sage2-8b@hopper:smooth_q=on,qk_gran=per_block", "int4@hopper:q=int6,k=int3,qk_gran=per_tensor",
        "int4-hadamard@hopper:v_gran=per_tensor", "fa3-fp8", "fa3-fp8:pv_accum=fp32+fp32,qk_gran=per_block",
        "sage2-4b@hopper:qk_gran=per_warp,smooth_v=on,v_outliers=clip"}) {
    for (const auto& c : all) {
      ASSERT_TRUE(sm90::supports(parse_variant(text), static_cast<std::int64_t>(c.spec.head_dim))) << text;
    }
    testing::expect_the_emulation(text, all, sm90::attend);
  }
}

/// Key tiles of 64 and all three accumulators; Ada's sums of 16 products on instructions that sum 32.
TEST(Sm90Attention, EqualsTheEmulationOfAdaBitForBit) {
  if (const auto why = no_hopper(); !why.empty()) GTEST_SKIP() << why;
  auto all = testing::cases();
  // Lengths around the tiles of 64 and 128 keys and the blocks of 128 rows; sums of many keys.
  all.push_back({{.q_len = 129, .kv_len = 193, .head_dim = 128, .q_bias = 1, .v_bias = 4, .seed = 31}, 4, 1});
  all.push_back({{.q_len = 257, .kv_len = 257, .head_dim = 64, .is_causal = true, .q_spread = 4, .seed = 32}, 1, 1});
  all.push_back({{.q_len = 64, .kv_len = 4160, .head_dim = 64, .v_bias = 2, .seed = 33}, 1, 1});
  for (const std::string text :
       {"sage2-8b", "sage2-4b", "sage2-4b-v1", "sage2pp-8b", "sage2pp-4b", "sage2-4b:qk_gran=per_token",
        "sage2-8b:qk_gran=per_token", "sage2-8b:pv_accum=fp32,smooth_v=on", "sage2-4b:pv_accum=fp32,qk_gran=per_block",
        "int4:q=int6,k=int3,qk_gran=per_tensor", "int4-hadamard:v_gran=per_tensor", "int4-smoothattn",
        "sage2-4b:v_outliers=median,pv_accum=fp32", "sage2-4b:arch=hopper", "sage2-8b:arch=hopper,pv_accum=fp32",
        "sage2pp-8b:arch=hopper"}) {
    for (const auto& c : all) {
      ASSERT_TRUE(sm90::supports(parse_variant(text), static_cast<std::int64_t>(c.spec.head_dim))) << text;
    }
    testing::expect_the_emulation(text, all, sm90::attend);
  }
}

TEST(Sm90Attention, SupportsWhatItSays) {
  EXPECT_TRUE(sm90::supports(parse_variant("sage2-8b"), 128));
  EXPECT_FALSE(sm90::supports(parse_variant("sage2-8b"), 129));
  EXPECT_FALSE(sm90::supports(parse_variant("sage2-8b@blackwell"), 64));
  EXPECT_FALSE(sm90::supports(parse_variant("sage2pp-8b@hopper"), 64));
  EXPECT_FALSE(sm90::supports(parse_variant("sage2-8b@hopper:qk_gran=per_token"), 64));
  EXPECT_FALSE(sm90::supports(parse_variant("sage2-8b@hopper:v_gran=per_block"), 64));
  EXPECT_FALSE(sm90::supports(parse_variant("sage2-8b@hopper:p=fp16,v=fp16"), 64));
  EXPECT_FALSE(sm90::supports(parse_variant("fa3-fp8:smooth_q=on"), 64));
  EXPECT_FALSE(sm90::supports(parse_variant("sage2-8b@hopper"), 257));
  EXPECT_TRUE(sm90::supports(parse_variant("sage2-8b@hopper"), 256));
}

}  // namespace
}  // namespace sage2::cuda
