#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "kernels/error_stats.hpp"
#include "kernels/exact_attention.hpp"
#include "kernels/sage2.h"
#include "tests/kernels/captured.hpp"
#include "tests/kernels/hopper.hpp"

extern "C" int sage2_header_is_c(void);

namespace sage2::cuda {
namespace {

using testing::CallSpec;
using testing::CapturedCall;

sage2_variant variant_of(const char* text) {
  sage2_variant v{};
  EXPECT_EQ(sage2_parse_variant(text, &v), SAGE2_OK) << sage2_last_error();
  return v;
}

/// Sizes and strides without memory.
sage2_args plain_args() {
  sage2_args a{};
  a.batch = 1;
  a.q_heads = a.kv_heads = 2;
  a.q_len = a.kv_len = 256;
  a.head_dim = 64;
  a.sm_scale = 0.125F;
  return a;
}

void expect_error(sage2_status status, sage2_status expected, const char* part) {
  EXPECT_EQ(status, expected) << sage2_last_error();
  EXPECT_NE(std::string(sage2_last_error()).find(part), std::string::npos) << sage2_last_error();
}

TEST(Sage2Api, HeaderIsC) {
  EXPECT_EQ(sage2_header_is_c(), 1);
}

TEST(Sage2Api, ReadsVariants) {
  const auto v = variant_of("sage2-4b:qk_gran=per_warp,smooth_v=on");
  EXPECT_EQ(v.bits, 4);
  EXPECT_EQ(v.granularity, SAGE2_PER_WARP);
  EXPECT_EQ(v.smooth_q, 1);
  EXPECT_EQ(v.smooth_k, 1);
  EXPECT_EQ(v.smooth_v, 1);
  EXPECT_EQ(v.two_level, 1);
  EXPECT_EQ(variant_of("sage2-8b@hopper").bits, 8);
  EXPECT_EQ(variant_of("sage2-8b:pv_accum=fp32").two_level, 0);
  sage2_variant out{};
  expect_error(sage2_parse_variant("sage3", &out), SAGE2_UNSUPPORTED, "no preset 'sage3");
  expect_error(sage2_parse_variant("sage2-4b@ada", &out), SAGE2_UNSUPPORTED, "arch");
  expect_error(sage2_parse_variant("sage1", &out), SAGE2_UNSUPPORTED, "e4m3");
  expect_error(sage2_parse_variant(nullptr, &out), SAGE2_INVALID_ARGUMENT, "text is NULL");
  EXPECT_EQ(sage2_parse_variant("sage2-4b", &out), SAGE2_OK);
  EXPECT_STREQ(sage2_last_error(), "") << "a success clears the error";
}

TEST(Sage2Api, ErrorsBelongToTheirThread) {
  sage2_variant out{};
  (void)sage2_parse_variant("first", &out);
  std::thread([] {
    sage2_variant other{};
    EXPECT_STREQ(sage2_last_error(), "");
    (void)sage2_parse_variant("second", &other);
  }).join();
  EXPECT_NE(std::string(sage2_last_error()).find("first"), std::string::npos);
}

TEST(Sage2Api, RefusesWhatMakesNoSense) {
  const auto v = variant_of("sage2-8b");
  std::size_t bytes = 0;
  const auto refused = [&](const char* part, auto change) {
    sage2_args a = plain_args();
    change(a);
    expect_error(sage2_workspace_size(&v, &a, &bytes), SAGE2_INVALID_ARGUMENT, part);
  };
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  refused("q_len is 0", [](auto& a) { a.q_len = 0; });
  refused("kv_heads is -1", [](auto& a) { a.kv_heads = -1; });
  refused("head_dim is 257", [](auto& a) { a.head_dim = 257; });
  refused("multiple of kv_heads", [](auto& a) { a.q_heads = 3; });
  refused("sm_scale is 0", [](auto& a) { a.sm_scale = 0; });
  refused("sm_scale is nan", [](auto& a) { a.sm_scale = kNaN; });
  refused("dtype is 2", [](auto& a) { a.dtype = SAGE2_FLOAT32; });
  refused("mask is 7", [](auto& a) { a.mask = 7; });
  refused("too large", [](auto& a) { a.batch = a.q_len = 1 << 20; });
  sage2_variant bad = v;
  bad.bits = 5;
  const auto args = plain_args();
  expect_error(sage2_workspace_size(&bad, &args, &bytes), SAGE2_INVALID_ARGUMENT, "bits is 5");
  expect_error(sage2_workspace_size(&v, nullptr, &bytes), SAGE2_INVALID_ARGUMENT, "args is NULL");
  ASSERT_EQ(sage2_workspace_size(&v, &args, &bytes), SAGE2_OK);
  // Codes of K and V take a byte each; those of Q are not stored.
  EXPECT_GT(bytes, 2U * 2 * 256 * 64);
  EXPECT_LT(bytes, 3U * 2 * 256 * 64);
  expect_error(sage2_attention(&v, &args, nullptr, bytes - 1, nullptr), SAGE2_WORKSPACE_TOO_SMALL, "expected at least");
  expect_error(sage2_attention(&v, &args, nullptr, bytes, nullptr), SAGE2_INVALID_ARGUMENT, "workspace is NULL");
}

class Sage2ApiOnDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const auto why = sage2::testing::no_hopper(); !why.empty()) GTEST_SKIP() << why;
  }
};

/// A call with an FP32 output laid out as Q is.
struct Call {
  Call(const CallSpec& spec, const Stream& stream) : captured(spec, stream.get()), stream_(stream.get()) {
    problem = captured.upload();
    const auto tensor = [](const TensorView& t) {
      return sage2_tensor{const_cast<void*>(t.data), t.stride_batch, t.stride_head, t.stride_token};  // NOLINT
    };
    const auto& q = problem.q;
    const auto& k = problem.k;
    args = {q.batch,    q.heads,       k.heads,       q.tokens,          k.tokens,
            q.channels, tensor(q),     tensor(k),     tensor(problem.v), {},
            nullptr,    SAGE2_FLOAT16, SAGE2_FLOAT32, SAGE2_MASK_NONE,   problem.sm_scale};
    args.dtype = spec.dtype == DType::float16 ? SAGE2_FLOAT16 : SAGE2_BFLOAT16;
    if (spec.is_causal) {
      args.mask =
          spec.causal_align == CausalAlign::top_left ? SAGE2_MASK_CAUSAL_TOP_LEFT : SAGE2_MASK_CAUSAL_BOTTOM_RIGHT;
    }
    const auto rows = static_cast<std::size_t>(q.batch * q.heads * q.tokens);
    o = DeviceBuffer<float>(rows * static_cast<std::size_t>(q.channels), stream_);
    lse = DeviceBuffer<float>(rows, stream_);
    args.o = {o.data(), q.heads * q.tokens * q.channels, q.tokens * q.channels, q.channels};
    args.lse = lse.data();
  }
  void make_workspace(const sage2_variant& v) {
    std::size_t bytes = 0;
    ASSERT_EQ(sage2_workspace_size(&v, &args, &bytes), SAGE2_OK) << sage2_last_error();
    workspace = DeviceBuffer<std::uint8_t>(bytes, stream_);
  }
  void run(const sage2_variant& v) {
    make_workspace(v);
    // Elements that nobody writes are NaN.
    SAGE2_CUDA_CHECK(cudaMemsetAsync(o.data(), 0xFF, o.size() * sizeof(float), stream_));
    ASSERT_EQ(sage2_attention(&v, &args, workspace.data(), workspace.size(), stream_), SAGE2_OK) << sage2_last_error();
  }
  [[nodiscard]] ErrorMetrics errors() const {
    DeviceBuffer<double> truth(o.size(), stream_);
    exact_attention(problem, {}, truth.data(), nullptr, stream_);
    ErrorStats all;
    for (const auto& head :
         error_stats(truth.data(), o.data(), problem.q_count(), problem.q.tokens, problem.q.channels, false, stream_)) {
      all.merge(head.stats);
    }
    return all.metrics();
  }

  CapturedCall captured;
  DeviceProblem problem;
  sage2_args args{};
  DeviceBuffer<float> o, lse;
  DeviceBuffer<std::uint8_t> workspace;

 private:
  cudaStream_t stream_;
};

TEST_F(Sage2ApiOnDevice, AgreesWithFp64) {
  const Stream stream;
  std::uint64_t seed = 1;
  for (const std::size_t dim : {64, 80, 128, 256}) {
    for (const bool causal : {false, true}) {
      CallSpec spec{.shape = {.batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 300, .kv_len = 411, .head_dim = dim},
                    .dtype = causal ? DType::bfloat16 : DType::float16,
                    .nhd = !causal,
                    .row_padding = causal ? 3 : 0,
                    .is_causal = causal,
                    .causal_align = dim == 80 ? CausalAlign::top_left : CausalAlign::bottom_right,
                    .k_bias = 2,
                    .v_bias = 0.3F,
                    .seed = seed++};
      Call call(spec, stream);
      // Twice what these tensors show: rounding to 8 and 4 bits, not the kernel, decides.
      for (const auto& [name, most] : {std::pair{"sage2-8b", 0.03}, std::pair{"sage2-4b", 0.13}}) {
        call.run(variant_of(name));
        const auto e = call.errors();
        EXPECT_TRUE(e.rel_l1 <= most) << name << " dim " << dim << " causal " << causal << ": " << e.rel_l1;
        EXPECT_TRUE(std::isfinite(call.lse.download().back()));
      }
    }
  }
}

TEST_F(Sage2ApiOnDevice, HalvesAndGraphsGiveTheSameBits) {
  const Stream stream;
  Call call({.shape = {.batch = 1, .q_heads = 4, .kv_heads = 4, .q_len = 700, .kv_len = 700, .head_dim = 128},
             .is_causal = true,
             .k_bias = 2},
            stream);
  const auto v = variant_of("sage2-4b");
  call.run(v);
  const auto want = call.o.download();
  const auto clear = [&] { SAGE2_CUDA_CHECK(cudaMemsetAsync(call.o.data(), 0xFF, want.size() * 4, stream.get())); };
  auto* const memory = call.workspace.data();
  const auto bytes = call.workspace.size();
  ASSERT_EQ(sage2_prepare(&v, &call.args, memory, bytes, stream.get()), SAGE2_OK) << sage2_last_error();
  for (int i = 0; i < 2; ++i) {
    clear();
    ASSERT_EQ(sage2_attend(&v, &call.args, memory, bytes, stream.get()), SAGE2_OK) << sage2_last_error();
    EXPECT_EQ(call.o.download(), want);
  }

  cudaGraph_t graph = nullptr;
  cudaGraphExec_t ready = nullptr;
  SAGE2_CUDA_CHECK(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeGlobal));
  const auto status = sage2_attention(&v, &call.args, memory, bytes, stream.get());
  SAGE2_CUDA_CHECK(cudaStreamEndCapture(stream.get(), &graph));
  ASSERT_EQ(status, SAGE2_OK) << sage2_last_error();
  SAGE2_CUDA_CHECK(cudaGraphInstantiate(&ready, graph, 0));
  for (int i = 0; i < 2; ++i) {
    clear();
    SAGE2_CUDA_CHECK(cudaGraphLaunch(ready, stream.get()));
    EXPECT_EQ(call.o.download(), want);
  }
  SAGE2_CUDA_CHECK(cudaGraphExecDestroy(ready));
  SAGE2_CUDA_CHECK(cudaGraphDestroy(graph));
}

/// More heads than multiprocessors, few enough beyond that the last pieces of work are cut: every head has the same
/// tensors, so every head must have the bits of a call with one head, whose pieces are all cut.
TEST_F(Sage2ApiOnDevice, ManyHeadsHaveTheBitsOfOne) {
  const Stream stream;
  for (const auto& [dim, tokens] :
       {std::pair{64, 300}, std::pair{64, 1030}, std::pair{128, 190}, std::pair{256, 129}}) {
    for (const bool causal : {false, true}) {
      CallSpec spec{.shape = {.batch = 1, .q_heads = 1, .kv_heads = 1, .head_dim = static_cast<std::size_t>(dim)},
                    .is_causal = causal,
                    .k_bias = 2};
      spec.shape.q_len = spec.shape.kv_len = static_cast<std::size_t>(tokens);
      Call one(spec, stream);
      one.args.lse = nullptr;
      for (const char* name : {"sage2-8b", "sage2-4b"}) {
        const auto v = variant_of(name);
        one.run(v);
        const auto want = one.o.download();
        for (const std::int64_t heads : {133, 140, 200}) {
          DeviceBuffer<float> o(want.size() * static_cast<std::size_t>(heads), stream.get());
          SAGE2_CUDA_CHECK(cudaMemsetAsync(o.data(), 0xFF, o.size() * sizeof(float), stream.get()));
          auto args = one.args;
          args.q_heads = args.kv_heads = heads;
          args.q.stride_head = args.k.stride_head = args.v.stride_head = 0;
          args.o = {o.data(), 0, static_cast<std::int64_t>(want.size()), dim};
          std::size_t bytes = 0;
          ASSERT_EQ(sage2_workspace_size(&v, &args, &bytes), SAGE2_OK) << sage2_last_error();
          DeviceBuffer<std::uint8_t> workspace(bytes, stream.get());
          ASSERT_EQ(sage2_attention(&v, &args, workspace.data(), bytes, stream.get()), SAGE2_OK) << sage2_last_error();
          const auto all = o.download();
          for (std::int64_t h = 0; h < heads; ++h) {
            const bool same = std::memcmp(all.data() + static_cast<std::size_t>(h) * want.size(), want.data(),
                                          want.size() * sizeof(float)) == 0;
            ASSERT_TRUE(same) << name << " dim " << dim << " tokens " << tokens << " causal " << causal << " head " << h
                              << " of " << heads;
          }
        }
      }
    }
  }
}

TEST_F(Sage2ApiOnDevice, RefusesHostMemory) {
  const Stream stream;
  Call call({.shape = {.batch = 1, .q_heads = 1, .kv_heads = 1, .q_len = 64, .kv_len = 64, .head_dim = 64}}, stream);
  const auto v = variant_of("sage2-8b");
  call.make_workspace(v);
  std::vector<float> host(64 * 64);
  call.args.o.data = host.data();
  expect_error(sage2_attention(&v, &call.args, call.workspace.data(), call.workspace.size(), stream.get()),
               SAGE2_INVALID_ARGUMENT, "o does not point to device memory");
  call.args.o.data = nullptr;
  expect_error(sage2_attention(&v, &call.args, call.workspace.data(), call.workspace.size(), stream.get()),
               SAGE2_INVALID_ARGUMENT, "o is NULL");
}

}  // namespace
}  // namespace sage2::cuda
