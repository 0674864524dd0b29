#include "kernels/sm90_prepare.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <stdexcept>

#include "fmt/core.h"
#include "kernels/sm90_jobs.hpp"
#include "kernels/sm90_tensor_map.hpp"
#include "reference/formats.hpp"
#include "reference/quantize.hpp"
#include "tests/kernels/captured.hpp"
#include "tests/kernels/hopper.hpp"

/// The fused preparation against the CPU's quantiser: the same codes and scales, bit for bit, in the tiles of the
/// Hopper kernel, but for Q's with smooth Q, whose means are off by the last bits of FP32 sums; dS within the error of
/// its 16-bit halves.
namespace sage2::cuda {
namespace {

using sage2::testing::CallSpec;
using sage2::testing::CapturedCall;
using sage2::testing::no_hopper;

Variant variant_of(const sm90::PrepareOptions& options) {
  Variant v = parse_variant(options.qk == Format::int4 ? "sage2-4b@hopper" : "sage2-8b@hopper");
  v.qk_gran = options.gran;
  v.smooth_q = options.smooth_q;
  v.smooth_k = options.smooth_k;
  v.smooth_v = options.smooth_v;
  return v;
}

/// What a byte of a tile stands for.
float decode(std::uint8_t byte, bool e4m3) {
  if (!e4m3) return static_cast<float>(static_cast<std::int8_t>(byte));
  const float sign = (byte & 0x80U) != 0 ? -1.0F : 1.0F;
  const int exponent = byte >> 3U & 15U;
  const auto mantissa = static_cast<float>(byte & 7U);
  return sign * (exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10));
}

float largest_of(const Matrix& x) {
  float largest = 0;
  for (const float value : x.data) largest = std::max(largest, std::fabs(value));
  return largest;
}

class Prepared {
 public:
  Prepared(CapturedCall& call, const sm90::PrepareOptions& options)
      : options_(options), problem_(call.upload()), at_(sm90::plan_workspace(problem_, options, true)) {
    DeviceBuffer<std::uint8_t> memory(at_.bytes + sm90::kWorkspaceAlignment, stream_.get());
    auto* const workspace = static_cast<std::uint8_t*>(sm90::align_workspace(memory.data()));
    SAGE2_CUDA_CHECK(cudaMemsetAsync(workspace, 0xFF, at_.bytes, stream_.get()));
    sm90::prepare(problem_, options, at_, workspace, true, stream_.get());
    params_ = sm90::attention_params(problem_, options, at_, workspace, true);
    bytes_ = memory.download();
    bytes_.erase(bytes_.begin(), bytes_.begin() + (workspace - memory.data()));
    dim_ = sm90::padded_head_dim(params_.head_dim);
  }
  template <class T>
  [[nodiscard]] T at(std::size_t offset, std::int64_t index) const {
    T value;
    std::memcpy(&value, bytes_.data() + offset + static_cast<std::size_t>(index) * sizeof(T), sizeof(T));
    return value;
  }

  /// Compares one query head and its key/value head; says where the first difference is.
  void expect(const HeadProblem& head, std::int64_t q_head, std::int64_t kv, const std::string& what) const {
    const auto truth = sage2::quantize(head, variant_of(options_));
    const auto& a = params_;
    std::size_t wrong = 0;
    const auto differ = [&](const char* part, std::int64_t i, std::int64_t c, float found, float expected) {
      if (std::bit_cast<std::uint32_t>(found + 0.0F) == std::bit_cast<std::uint32_t>(expected + 0.0F)) return;
      if (++wrong <= 3)
        ADD_FAILURE() << what << ": " << part << " " << i << ", " << c << ": " << found << " != " << expected;
    };
    // In units of 2^-23 of the largest number, a mean is off by up to 4.4 for sums by tensor cores (eight steps, each
    // off by one of its result), 0.5 for those in FP32 and 1 for its own rounding, and the scale by 2 each for x -
    // mean, its division and the 1e-7 that are added: 12. Next to a tie a code follows: of quotients up to 7 and
    // typical errors of 1, one of 10^6.
    const float step =
        options_.smooth_q ? 0x1p-19F * largest_of(head.q) / (options_.qk == Format::int4 ? 7.0F : 127.0F) : 0.0F;
    int moved = 0;  // codes
    for (int i = 0; i < (a.q != nullptr ? a.q_tiles * 64 : 0); ++i) {
      const bool real = i < a.q_len;
      const auto scale = at<float>(at_.q_scale, q_head * a.q_tiles * 64 + i);
      if (real && !(std::fabs(scale - truth.q.scale[i]) <= step)) differ("q_scale", i, 0, scale, truth.q.scale[i]);
      for (int c = 0; c < dim_; ++c) {
        const auto byte =
            at<std::uint8_t>(at_.q + sm90::qk_offset(64, dim_, i % 64, c), (q_head * a.q_tiles + i / 64) * 64 * dim_);
        const float code = decode(byte, options_.e4m3_codes);
        const bool inside = real && c < a.head_dim;
        const float expected = inside ? truth.q.codes(i, c) : 0.0F;
        if (options_.smooth_q && inside && std::fabs(code - expected) == 1) {
          ++moved;
        } else {
          differ("q", i, c, code, expected);
        }
      }
    }
    EXPECT_LE(moved, 1 + a.q_len * a.head_dim / 100000) << what;
    for (int i = 0; i < a.k_tiles * 128; ++i) {
      const bool real = i < a.kv_len;
      const std::int64_t tile = kv * a.k_tiles + i / 128;
      if (real) differ("k_scale", i, 0, at<float>(at_.k_scale, tile * 4 + i % 8 / 2), truth.k.scale[i]);
      for (int c = 0; c < dim_; ++c) {
        const bool inside = real && c < a.head_dim;
        const auto k = at<std::uint8_t>(at_.k + sm90::qk_offset(128, dim_, i % 128, c), tile * 128 * dim_);
        differ("k", i, c, decode(k, options_.e4m3_codes), inside ? truth.k.codes(i, c) : 0.0F);
        const auto v = at<std::uint8_t>(at_.v + sm90::v_offset(i % 128, c), tile * 128 * dim_);
        differ("v", i, c, decode(v, true), inside ? truth.v.front().codes(i, c) : 0.0F);
      }
    }
    for (int c = 0; c < a.head_dim; ++c) {
      differ("v_scale", 0, c, at<float>(at_.v_scale, kv * dim_ + c), truth.v.front().scale(0, c));
      if (options_.smooth_v) differ("v_mean", 0, c, at<float>(at_.v_mean, kv * dim_ + c), truth.v_mean[c]);
    }
    EXPECT_EQ(wrong, 0U) << what;
    if (options_.smooth_q) expect_delta(head, truth, q_head, what);
  }

 private:
  /// The halves of a mean hold 16 (BF16) or 22 (FP16) bits, FP32 sums lose 2^-22 of the largest partial sum: errors are
  /// relative to sum |q_mean k|, with what smoothing took away still in it, and the reference key's. Means are off by
  /// about 2^-23 of the largest query, too.
  void expect_delta(const HeadProblem& head, const Operands& truth, std::int64_t q_head,
                    const std::string& what) const {
    const auto& a = params_;
    const double relative = head.dtype == DType::bfloat16 ? 0x1p-15 : 0x1p-19;
    const double largest = largest_of(head.q);
    double worst = 0;
    std::size_t wrong = 0;  // NaN, too
    for (std::int64_t b = 0; b < a.q_blocks; ++b) {
      std::vector<double> mean(static_cast<std::size_t>(a.head_dim), 0.0);
      const std::int64_t rows = std::min<std::int64_t>(128, a.q_len - b * 128);
      for (std::int64_t i = 0; i < rows; ++i) {
        for (int c = 0; c < a.head_dim; ++c)
          mean[c] += static_cast<double>(head.q(b * 128 + i, c)) / static_cast<double>(rows);
      }
      const auto size_of = [&](std::int64_t key) {
        double size = 0;
        for (int c = 0; c < a.head_dim; ++c) {
          size += (std::fabs(mean[c]) + 0x1p-23 / relative * largest) * std::fabs(static_cast<double>(head.k(key, c)));
        }
        return size;
      };
      const int reference = sm90::reference_key(a.kv_len);
      const double size_of_reference = options_.smooth_k ? size_of(reference) : 0;
      const double of_reference = options_.smooth_k ? static_cast<double>(truth.delta_s(b, reference)) : 0;
      for (std::int64_t j = 0; j < a.kv_len; ++j) {
        // Blocks that do not see the tile at all are left out.
        if (a.is_causal != 0 && (b + 1) * 128 + a.causal_shift <= j / 128 * 128) continue;
        const double size = size_of(j) + size_of_reference;
        const double expected = static_cast<double>(truth.delta_s(b, j)) - of_reference;
        const double found =
            static_cast<double>(at<float>(at_.delta_s, (q_head * a.q_blocks + b) * a.k_tiles * 128 + j));
        const double error = std::fabs(found - expected) / (size * static_cast<double>(a.scale_log2) + 1e-6);
        wrong += error <= relative ? 0U : 1U;
        worst = std::max(worst, error);
      }
    }
    EXPECT_EQ(wrong, 0U) << what << ": dS is off by up to 2^" << std::log2(worst);
  }

  sm90::PrepareOptions options_;
  Stream stream_;
  DeviceProblem problem_;
  sm90::Workspace at_;
  sm90::AttentionParams params_{};
  std::vector<std::uint8_t> bytes_;
  int dim_ = 0;
};

TEST(Sm90Prepare, AlignsItsWorkspace) {
  alignas(1024) std::array<std::byte, 2048> memory{};
  EXPECT_EQ(sm90::align_workspace(memory.data()), memory.data());
  EXPECT_EQ(sm90::align_workspace(memory.data() + 1), memory.data() + 1024);
  EXPECT_EQ(sm90::align_workspace(memory.data() + 1023), memory.data() + 1024);
  EXPECT_THROW(sm90::prepare({}, {}, {}, memory.data() + 16, false, nullptr), std::invalid_argument);
}

TEST(Sm90Prepare, KnowsWhatTheCopyEngineCannotRead) {
  alignas(16) std::array<std::uint16_t, 8> memory{};
  const TensorView fine{.data = memory.data(),
                        .batch = 2,
                        .heads = 2,
                        .tokens = 2,
                        .channels = 64,
                        .stride_batch = 256,
                        .stride_head = 128,
                        .stride_token = 64};
  const auto refused = [](const TensorView& t) {
    CUtensorMap map;
    return !sm90::describe(t, 128, map);
  };
  TensorView t = fine;
  t.data = memory.data() + 1;
  EXPECT_TRUE(refused(t));
  t = fine;
  t.channels = 50;
  EXPECT_TRUE(refused(t));
  t = fine;
  t.stride_token = 68;
  EXPECT_TRUE(refused(t));
  t = fine;
  t.stride_head = 0;  // a broadcast head
  EXPECT_TRUE(refused(t));
  t = fine;
  t.stride_batch = -256;
  EXPECT_TRUE(refused(t));
}

TEST(Sm90Prepare, KnowsWhatTheCopyEngineCanRead) {
  if (const auto why = no_hopper(); !why.empty()) GTEST_SKIP() << why;
  const Stream stream;
  DeviceBuffer<std::uint16_t> memory(2 * 4 * 256 * 64, stream.get());
  const auto expect = [&](std::int64_t batch, std::int64_t channels, std::int64_t head, std::int64_t token) {
    CUtensorMap map;
    EXPECT_TRUE(sm90::describe({.data = memory.data(),
                                .batch = batch,
                                .heads = 4,
                                .tokens = 256,
                                .channels = channels,
                                .stride_batch = batch == 1 ? 0 : 4 * 256 * 64,
                                .stride_head = head,
                                .stride_token = token},
                               128, map))
        << batch << ", " << channels << ", " << head << ", " << token;
  };
  expect(2, 64, 256 * 64, 64);
  expect(2, 64, 64, 4 * 64);
  expect(2, 40, 256 * 64, 64);
  expect(1, 64, 256 * 64, 64);
}

TEST(Sm90Prepare, WritesCodesOfQueriesForShortCalls) {
  const auto bytes = [](std::int64_t q_len, std::int64_t kv_len, std::int64_t dim, bool smooth_q, sm90::Codes q_codes) {
    const auto view = [&](std::int64_t tokens) {
      return TensorView{.data = nullptr,
                        .dtype = DType::bfloat16,
                        .batch = 1,
                        .heads = 2,
                        .tokens = tokens,
                        .channels = dim,
                        .stride_batch = 2 * tokens * dim,
                        .stride_head = tokens * dim,
                        .stride_token = dim};
    };
    DeviceProblem problem;
    problem.q = view(q_len);
    problem.k = problem.v = view(kv_len);
    problem.dtype = DType::bfloat16;
    return sm90::plan_workspace(problem, {.smooth_q = smooth_q, .q_codes = q_codes}, false).bytes;
  };
  const auto written = [&](std::int64_t q_len, std::int64_t kv_len, std::int64_t dim, bool smooth_q) {
    const auto of = [&](sm90::Codes who) { return bytes(q_len, kv_len, dim, smooth_q, who); };
    EXPECT_GE(of(sm90::Codes::prepared), of(sm90::Codes::by_attention) + static_cast<std::size_t>(2 * q_len * dim));
    return of(sm90::Codes::chosen) == of(sm90::Codes::prepared);
  };
  EXPECT_TRUE(written(1024, 1024, 128, true));
  EXPECT_TRUE(written(1000, 1000, 96, true));
  EXPECT_TRUE(written(70000, 77, 128, true));
  EXPECT_FALSE(written(1024, 1025, 128, true));
  EXPECT_FALSE(written(1024, 1024, 128, false));
  EXPECT_FALSE(written(1024, 1024, 64, true));
  EXPECT_FALSE(written(1024, 1024, 256, true));
}

TEST(Sm90Prepare, HasTheCodesOfTheQuantiser) {
  if (const auto why = no_hopper(); !why.empty()) GTEST_SKIP() << why;
  std::vector<sm90::PrepareOptions> all;
  for (const auto gran : {QkGran::per_block, QkGran::per_warp, QkGran::per_thread}) {
    all.push_back({.qk = Format::int8, .gran = gran, .q_codes = sm90::Codes::prepared});
    sm90::PrepareOptions smooth{.qk = Format::int4,
                                .gran = gran,
                                .smooth_q = true,
                                .smooth_v = true,
                                .e4m3_codes = true,
                                .q_codes = sm90::Codes::by_attention};
    all.push_back(smooth);
    smooth.q_codes = sm90::Codes::prepared;
    all.push_back(smooth);
  }
  all.push_back({.qk = Format::int8, .smooth_k = false});
  all.push_back({.qk = Format::int4, .smooth_q = true, .smooth_k = false, .e4m3_codes = true});
  std::vector<CallSpec> specs;
  for (const auto dtype : {DType::float16, DType::bfloat16}) {
    specs.push_back({.shape = {1, 2, 1, 300, 700, 64}, .dtype = dtype, .k_bias = 4, .v_bias = 2, .seed = 1});
    specs.push_back({.shape = {2, 4, 2, 129, 1100, 128}, .dtype = dtype, .nhd = true, .k_bias = 9, .seed = 2});
    specs.push_back({.shape = {1, 1, 1, 1, 1, 128}, .dtype = dtype, .seed = 3});
    specs.push_back({.shape = {1, 2, 2, 200, 513, 96}, .dtype = dtype, .is_causal = true, .q_spread = 9, .seed = 4});
    specs.push_back({.shape = {1, 1, 1, 140, 260, 256}, .dtype = dtype, .v_bias = 8, .seed = 5});
    // Means of more than one group of blocks, for three query heads; with a mask tiles that only later groups see, or
    // no query at all.
    for (const std::size_t dim : {64U, 128U, 256U}) {
      if (dtype != DType::bfloat16) continue;
      specs.push_back({.shape = {1, 3, 1, 4300, 260, dim}, .dtype = dtype, .seed = 7});
      specs.push_back({.shape = {1, 2, 1, 1500, 1500, dim}, .dtype = dtype, .is_causal = true, .seed = 8});
      specs.push_back({.shape = {1, 1, 1, 4300, 4300, dim}, .dtype = dtype, .is_causal = true, .seed = 9});
      specs.push_back({.shape = {1, 2, 1, 200, 700, dim},
                       .dtype = dtype,
                       .is_causal = true,
                       .causal_align = CausalAlign::top_left,
                       .seed = 10});
    }
    // Rows that are not aligned for wide loads.
    specs.push_back({.shape = {1, 1, 1, 70, 90, 50}, .dtype = dtype, .row_padding = 3, .offset = 1, .seed = 6});
  }
  for (const auto& spec : specs) {
    for (const auto& options : all) {
      const Stream stream;
      CapturedCall call(spec, stream.get());
      const Prepared prepared(call, options);
      const auto heads = static_cast<std::int64_t>(spec.shape.batch * spec.shape.q_heads);
      for (std::int64_t h = 0; h < heads; ++h) {
        const auto in_batch = h % static_cast<std::int64_t>(spec.shape.q_heads);
        const auto kv =
            h / static_cast<std::int64_t>(spec.shape.q_heads) * static_cast<std::int64_t>(spec.shape.kv_heads) +
            static_cast<std::int64_t>(spec.shape.kv_head(static_cast<std::size_t>(in_batch)));
        prepared.expect(call.head(static_cast<std::size_t>(h)), h, kv,
                        fmt::format("d {}, {}, {}, head {}", spec.shape.head_dim, to_string(spec.dtype),
                                    canonical(variant_of(options)), h));
      }
    }
  }
}

TEST(Sm90Prepare, HasMeansOfNumbersWhoseSumsOverflowFloats) {
  if (const auto why = no_hopper(); !why.empty()) GTEST_SKIP() << why;
  constexpr std::size_t kOfQ = 3;  // channels of numbers about 2 x 10^38, beside zeros of the other operand
  constexpr std::size_t kOfK = 5;
  const auto fill = [](Matrix& rows, std::size_t dim, std::size_t large, std::size_t zero) {
    for (std::size_t i = 0; i < rows.data.size() / dim; ++i) {
      rows.data[i * dim + large] = sage2::testing::to_bf16_value(1e38F + 3e37F * static_cast<float>(i % 7));
      rows.data[i * dim + zero] = 0;
    }
  };
  for (const std::size_t dim : {64U, 128U, 256U}) {
    for (const auto& options :
         {sm90::PrepareOptions{.qk = Format::int8, .q_codes = sm90::Codes::prepared},
          sm90::PrepareOptions{
              .qk = Format::int4, .smooth_q = true, .e4m3_codes = true, .q_codes = sm90::Codes::prepared}}) {
      const Stream stream;
      CapturedCall call({.shape = {1, 1, 1, 300, 700, dim}, .dtype = DType::bfloat16, .seed = 11}, stream.get());
      fill(call.q.front(), dim, kOfQ, kOfK);
      fill(call.k.front(), dim, kOfK, kOfQ);
      const Prepared prepared(call, options);
      prepared.expect(call.head(0), 0, 0, fmt::format("d {}, {}", dim, canonical(variant_of(options))));
    }
  }
}

}  // namespace
}  // namespace sage2::cuda
