#include <gtest/gtest.h>

#include <bit>
#include <limits>

#include "fmt/core.h"
#include "kernels/sm90_attention.hpp"
#include "kernels/sm90_plan.hpp"
#include "tests/kernels/captured.hpp"
#include "tests/kernels/hopper.hpp"

/// Queries and values that the attention kernel quantises itself give the bits of the preparation's codes, which have
/// those of the CPU's quantiser (sm90_prepare_test.cpp).
namespace sage2::cuda {
namespace {

using sage2::testing::CallSpec;
using sage2::testing::CapturedCall;
using sage2::testing::no_hopper;

constexpr std::uint64_t kWithOddRows = 4;       ///< seed of calls whose queries are not all numbers
constexpr std::uint64_t kWithOddChannels = 11;  ///< and whose values have channels that are extreme, or not all numbers

struct Result {
  std::vector<float> o, lse;
};

Result attend(const DeviceProblem& problem, const sm90::Plan& plan, bool prepared, cudaStream_t stream) {
  auto options = plan.prepare;
  options.q_codes = prepared ? sm90::Codes::prepared : sm90::Codes::by_attention;
  options.v_codes = options.q_codes;
  const auto at = sm90::plan_workspace(problem, options, true);
  DeviceBuffer<std::uint8_t> memory(at.bytes + sm90::kWorkspaceAlignment, stream);
  void* const workspace = sm90::align_workspace(memory.data());
  SAGE2_CUDA_CHECK(cudaMemsetAsync(workspace, 0xFF, at.bytes, stream));
  sm90::prepare(problem, options, at, workspace, true, stream);
  auto params = sm90::attention_params(problem, options, at, workspace, true);
  const auto rows = static_cast<std::size_t>(problem.q_count() * problem.q.tokens);
  DeviceBuffer<float> o(rows * static_cast<std::size_t>(problem.q.channels), stream);
  DeviceBuffer<float> lse(rows, stream);
  // Memory that was another call's must not pass for a result.
  SAGE2_CUDA_CHECK(cudaMemsetAsync(o.data(), prepared ? 0xFF : 0xFE, o.size() * sizeof(float), stream));
  SAGE2_CUDA_CHECK(cudaMemsetAsync(lse.data(), prepared ? 0xFF : 0xFE, lse.size() * sizeof(float), stream));
  params.o = o.data();
  params.o_type = sm90::OutType::fp32;
  params.lse = lse.data();
  sm90::attention(params, plan.kernel, stream);
  return {o.download(), lse.download()};
}

/// By their bits: NaN equals itself.
std::size_t different(const std::vector<float>& a, const std::vector<float>& b) {
  std::size_t count = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
    count += std::bit_cast<std::uint32_t>(a[i]) == std::bit_cast<std::uint32_t>(b[i]) ? 0U : 1U;
  }
  return count;
}

TEST(Sm90Queries, HaveTheBitsOfThePreparation) {
  if (const auto why = no_hopper(); !why.empty()) GTEST_SKIP() << why;
  std::vector<CallSpec> specs;
  for (const auto dtype : {DType::float16, DType::bfloat16}) {
    for (const std::size_t dim : {64U, 128U, 256U}) {
      specs.push_back({.shape = {2, 4, 2, 700, 300, dim}, .dtype = dtype, .q_spread = 3, .q_bias = 2, .seed = 1});
      specs.push_back({.shape = {1, 2, 1, 1100, 1100, dim}, .dtype = dtype, .nhd = true, .is_causal = true, .seed = 2});
      specs.push_back({.shape = {1, 1, 1, 1, 140, dim}, .dtype = dtype, .seed = 3});
    }
    specs.push_back(
        {.shape = {1, 2, 2, 200, 513, 96}, .dtype = dtype, .is_causal = true, .q_spread = 9, .seed = kWithOddRows});
    // Rows that are not aligned for copies of 16 bytes, and chunks that end within a row.
    specs.push_back({.shape = {1, 2, 1, 270, 90, 50}, .dtype = dtype, .row_padding = 3, .offset = 1, .seed = 5});
    specs.push_back({.shape = {1, 2, 1, 270, 90, 100}, .dtype = dtype, .row_padding = 4, .seed = 6});
    // More pieces of work than multiprocessors, so that a block takes several; some of them without a tile.
    if (dtype == DType::bfloat16) {
      for (const std::size_t dim : {64U, 128U, 256U}) {
        specs.push_back({.shape = {2, 40, 20, 700, 300, dim}, .dtype = dtype, .q_bias = 1, .seed = 8});
        specs.push_back({.shape = {2, 40, 20, 700, 300, dim}, .dtype = dtype, .is_causal = true, .seed = 9});
      }
    }
    // So many keys that head dim 64 has another kernel.
    specs.push_back({.shape = {1, 2, 1, 300, 4300, 64}, .dtype = dtype, .q_bias = 1, .seed = 10});
    // So many heads that the kernel makes most of their codes of V; the last tile is mostly padding.
    specs.push_back({.shape = {1, 192, 12, 600, 700, 128}, .dtype = dtype, .v_bias = 1, .seed = kWithOddChannels});
    specs.push_back({.shape = {1, 192, 12, 700, 700, 64}, .dtype = dtype, .nhd = true, .is_causal = true, .seed = 12});
    specs.push_back({.shape = {1, 192, 12, 500, 700, 256}, .dtype = dtype, .v_bias = 1, .seed = kWithOddChannels});
    specs.push_back({.shape = {1, 192, 12, 700, 700, 200}, .dtype = dtype, .nhd = true, .is_causal = true, .seed = 14});
    // So many keys for so few queries that every warp makes codes of V beside a piece, several times, and of two heads.
    specs.push_back({.shape = {1, 286, 26, 100, 1290, 256},
                     .dtype = dtype,
                     .is_causal = true,
                     .v_bias = 1,
                     .seed = kWithOddChannels});
    specs.push_back({.shape = {1, 624, 26, 100, 2300, 128}, .dtype = dtype, .is_causal = true, .seed = 15});
    specs.push_back({.shape = {2, 96, 12, 400, 1290, 96}, .dtype = dtype, .is_causal = true, .seed = 13});
    // Queries that see no key.
    specs.push_back({.shape = {1, 1, 1, 400, 130, 64}, .dtype = dtype, .is_causal = true, .seed = 7});
  }
  for (const auto& spec : specs) {
    const Stream stream;
    CapturedCall call(spec, stream.get());
    // A row with an infinity, and one that is not a number at all.
    if (spec.seed == kWithOddRows) {
      call.q.front().data[5] = std::numeric_limits<float>::infinity();
      for (std::size_t c = 0; c < spec.shape.head_dim; ++c) {
        call.q.front().data[40 * spec.shape.head_dim + c] = std::numeric_limits<float>::quiet_NaN();
      }
    }
    if (spec.seed == kWithOddChannels) {
      // Of the last head, whose codes the kernel makes. FP16 has no numbers as small or large.
      Matrix& last = call.v.back();
      const auto set = [&](std::size_t channel, float factor) {
        for (std::size_t i = 0; i < spec.shape.kv_len; ++i) {
          float& x = last.data[i * spec.shape.head_dim + channel];
          x = sage2::testing::to_bf16_value(x * factor);
        }
      };
      set(3, spec.dtype == DType::bfloat16 ? 1e-30F : 1e-4F);
      set(5, spec.dtype == DType::bfloat16 ? 1e30F : 1e3F);
      set(6, 0);
      last.data[7 * spec.shape.head_dim + 8] = std::numeric_limits<float>::infinity();
      last.data[9 * spec.shape.head_dim + 10] = std::numeric_limits<float>::quiet_NaN();
    }
    const auto problem = call.upload();
    for (const std::string text :
         {"sage2-8b", "sage2-4b", "sage2-8b:qk_gran=per_warp", "sage2-4b:qk_gran=per_warp",
          "sage2-8b:qk_gran=per_block", "sage2-4b:qk_gran=per_block", "sage2-4b:smooth_q=off", "sage2-8b:smooth_q=on",
          "sage2-8b:pv_accum=fp32", "sage2-8b:smooth_v=on", "sage2-4b:smooth_v=on"}) {
      const auto plan = sm90::plan(sm90::parse_for_hopper(text));
      const auto want = attend(problem, plan, true, stream.get());
      const auto found = attend(problem, plan, false, stream.get());
      const auto what =
          fmt::format("d {}, {} queries, {}, {}", spec.shape.head_dim, spec.shape.q_len, to_string(spec.dtype), text);
      EXPECT_EQ(different(found.o, want.o), 0U) << what;
      EXPECT_EQ(different(found.lse, want.lse), 0U) << what;
    }
  }
}

}  // namespace
}  // namespace sage2::cuda
