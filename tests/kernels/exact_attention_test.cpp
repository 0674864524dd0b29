#include "kernels/exact_attention.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "fmt/core.h"
#include "gtest/gtest.h"
#include "kernels/device_info.hpp"
#include "reference/exact_attention.hpp"
#include "tests/kernels/captured.hpp"

namespace sage2::cuda {
namespace {

using testing::CallSpec;
using testing::CapturedCall;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
/// Both engines stay below 1e-12 of sum p |v| by their bounds (docs/numerics-reference.md) unless scores reach
/// hundreds.
constexpr double kTolerance = 1e-12;

class ExactAttentionOnDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    if (find_devices().devices.empty()) GTEST_SKIP() << "no GPU";
  }
};

struct Result {
  std::vector<double> o, lse;
};

Result run(const DeviceProblem& p, const std::vector<std::uint32_t>& rows, const Stream& stream) {
  const std::int64_t count = rows.empty() ? p.q.tokens : static_cast<std::int64_t>(rows.size()) / p.q_count();
  DeviceBuffer<std::uint32_t> device_rows(rows.size(), stream.get());
  device_rows.upload(rows);
  DeviceBuffer<double> o(static_cast<std::size_t>(p.q_count() * count * p.v.channels), stream.get());
  DeviceBuffer<double> lse(static_cast<std::size_t>(p.q_count() * count), stream.get());
  // Elements that nobody writes are NaN.
  SAGE2_CUDA_CHECK(cudaMemsetAsync(o.data(), 0xFF, o.size() * sizeof(double), stream.get()));
  SAGE2_CUDA_CHECK(cudaMemsetAsync(lse.data(), 0xFF, lse.size() * sizeof(double), stream.get()));
  const RowSelection selection{rows.empty() ? nullptr : device_rows.data(), count};
  exact_attention(p, selection, o.data(), lse.data(), stream.get());
  return {o.download(), lse.download()};
}

/// Worst |device - host| / sum_j p_j |v_j|, or infinity where one of them is finite and the other is not.
struct Worst {
  double o = 0, lse = 0;
  std::string where;
};

void compare_head(const HeadProblem& head, std::span<const std::uint32_t> rows, const double* o, const double* lse,
                  std::size_t number, Worst& worst) {
  const ExactOutput expected = exact_attention(head, rows);
  HeadProblem magnitudes = head;
  for (float& x : magnitudes.v.data) x = std::abs(x);
  const ExactOutput weight = exact_attention(magnitudes, rows);
  for (std::size_t i = 0; i < expected.rows; ++i) {
    for (std::size_t c = 0; c < expected.cols; ++c) {
      const double e = expected.row(i)[c];
      const double a = o[i * expected.cols + c];
      double error = e == a || (std::isnan(e) && std::isnan(a)) ? 0 : std::abs(e - a) / weight.row(i)[c];
      if (std::isnan(error)) error = kInf;
      if (!(error <= worst.o)) {
        worst.o = error;
        worst.where = fmt::format("head {} row {} channel {}: expected {}, got {}", number, i, c, e, a);
      }
    }
    const double e = expected.lse[i];
    const double a = lse[i];
    double error = e == a || (std::isnan(e) && std::isnan(a)) ? 0 : std::abs(e - a) / std::max(1.0, std::abs(e));
    if (std::isnan(error)) error = kInf;
    if (!(error <= worst.lse)) {
      worst.lse = error;
      worst.where += fmt::format(" lse of head {} row {}: expected {}, got {}", number, i, e, a);
    }
  }
}

Worst compare(const CapturedCall& call, std::size_t heads, const std::vector<std::uint32_t>& rows, const Result& got) {
  Worst worst;
  const std::size_t per_head = got.lse.size() / heads;
  for (std::size_t h = 0; h < heads; ++h) {
    const auto mine = rows.empty() ? std::span<const std::uint32_t>() : std::span(rows).subspan(h * per_head, per_head);
    compare_head(call.head(h), mine, got.o.data() + h * (got.o.size() / heads), got.lse.data() + h * per_head, h,
                 worst);
  }
  return worst;
}

void expect_agreement(const CallSpec& spec, double tolerance = kTolerance) {
  const Stream stream;
  CapturedCall call(spec, stream.get());
  const Result got = run(call.upload(), {}, stream);
  const Worst worst = compare(call, spec.shape.batch * spec.shape.q_heads, {}, got);
  const Shape& s = spec.shape;
  const auto name =
      fmt::format("batch {} heads {}/{} lengths {}/{} d {} {}{}{}", s.batch, s.q_heads, s.kv_heads, s.q_len, s.kv_len,
                  s.head_dim, to_string(spec.dtype), spec.nhd ? " nhd" : "", spec.is_causal ? " causal" : "");
  EXPECT_LE(worst.o, tolerance) << name << ": " << worst.where;
  EXPECT_LE(worst.lse, tolerance) << name << ": " << worst.where;
}

Shape shape(std::size_t batch, std::size_t q_heads, std::size_t kv_heads, std::size_t q_len, std::size_t kv_len,
            std::size_t head_dim) {
  return {batch, q_heads, kv_heads, q_len, kv_len, head_dim};
}

TEST_F(ExactAttentionOnDevice, AgreesWithTheCpuAtEveryLength) {
  for (const std::size_t n : {1, 63, 64, 65, 127, 1000}) {
    for (const std::size_t d : {64, 128}) {
      for (const bool causal : {false, true}) expect_agreement({.shape = shape(1, 1, 1, n, n, d), .is_causal = causal});
    }
  }
}

TEST_F(ExactAttentionOnDevice, AgreesWithTheCpuAtEveryHeadDim) {
  for (const std::size_t d : {1, 2, 7, 16, 33, 72, 80, 96, 127, 129, 192, 200, 256}) {
    expect_agreement({.shape = shape(1, 2, 1, 130, 150, d), .is_causal = d % 2 == 0});
  }
}

TEST_F(ExactAttentionOnDevice, AgreesWithTheCpuForEveryFormatAndLayout) {
  for (const DType dtype : {DType::float16, DType::bfloat16, DType::float32}) {
    for (const bool nhd : {false, true}) {
      for (const std::int64_t padding : {0, 8, 3}) {
        for (const std::int64_t offset : {0, 1}) {
          expect_agreement({.shape = shape(2, 2, 1, 70, 90, 96),
                            .dtype = dtype,
                            .nhd = nhd,
                            .row_padding = padding,
                            .offset = offset});
        }
      }
    }
  }
}

TEST_F(ExactAttentionOnDevice, GroupsOfQueryHeadsShareKeysAndValues) {
  expect_agreement({.shape = shape(2, 8, 2, 100, 100, 64), .is_causal = true});
  expect_agreement({.shape = shape(2, 6, 3, 100, 100, 128)});
  expect_agreement({.shape = shape(1, 4, 1, 50, 300, 256)});
}

TEST_F(ExactAttentionOnDevice, AlignsTheMaskAtEitherEnd) {
  for (const CausalAlign align : {CausalAlign::bottom_right, CausalAlign::top_left}) {
    for (const std::size_t d : {40, 128, 160}) {
      expect_agreement({.shape = shape(1, 1, 1, 100, 333, d), .is_causal = true, .causal_align = align});
      expect_agreement({.shape = shape(1, 1, 1, 333, 100, d), .is_causal = true, .causal_align = align});
      expect_agreement({.shape = shape(1, 1, 1, 1, 700, d), .is_causal = true, .causal_align = align});
    }
  }
}

TEST_F(ExactAttentionOnDevice, AgreesWithTheCpuForPeakedAndBiasedInputs) {
  for (const std::size_t d : {64, 128, 256}) {
    expect_agreement({.shape = shape(1, 1, 1, 200, 400, d), .q_spread = 10, .v_bias = 8});
    expect_agreement({.shape = shape(1, 1, 1, 200, 400, d), .k_bias = 8, .seed = 2});
    // Scores in the hundreds: |score| times 2^-53 d is what both engines may err by.
    expect_agreement({.shape = shape(1, 1, 1, 200, 400, d), .q_spread = 10, .sm_scale = 2, .seed = 3}, 1e-10);
    expect_agreement({.shape = shape(1, 1, 1, 200, 400, d), .sm_scale = -0.3F, .seed = 4});
  }
}

TEST_F(ExactAttentionOnDevice, KnowsClosedForms) {
  const Stream stream;
  for (const std::size_t d : {16, 128, 256}) {
    // Equal scores average V.
    CapturedCall call({.shape = shape(1, 1, 1, 5, 256, d)}, stream.get());
    std::fill(call.q[0].data.begin(), call.q[0].data.end(), 0.0F);
    const Result out = run(call.upload(), {}, stream);
    for (std::size_t c = 0; c < d; ++c) {
      double sum = 0;
      for (std::size_t j = 0; j < 256; ++j) sum += call.v[0](j, c);  // FP16 values: every partial sum is exact
      for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(out.o[i * d + c], sum / 256);
    }
    for (const double lse : out.lse) EXPECT_NEAR(lse, std::log(256.0), 1e-15 * std::log(256.0));
  }
  // Two keys are a logistic function.
  CapturedCall call({.shape = shape(1, 1, 1, 1, 2, 1), .sm_scale = 0.5F}, stream.get());
  call.q[0].data = {1};
  call.k[0].data = {3, 0};
  call.v[0].data = {1, 0};
  const Result out = run(call.upload(), {}, stream);
  EXPECT_DOUBLE_EQ(out.o[0], 1 / (1 + std::exp(-1.5)));
  EXPECT_DOUBLE_EQ(out.lse[0], std::log(std::exp(1.5) + 1));
  // A scale of zero averages too, with and without a mask.
  for (const bool causal : {false, true}) {
    CapturedCall flat({.shape = shape(1, 1, 1, 3, 3, 8), .is_causal = causal}, stream.get());
    auto problem = flat.upload();
    problem.sm_scale = 0;
    const Result average = run(problem, {}, stream);
    for (std::size_t i = 0; i < 3; ++i) {
      const std::size_t seen = causal ? i + 1 : 3;
      double sum = 0;
      for (std::size_t j = 0; j < seen; ++j) sum += flat.v[0](j, 5);
      EXPECT_NEAR(average.o[i * 8 + 5], sum / static_cast<double>(seen), 1e-15);
      EXPECT_NEAR(average.lse[i], std::log(static_cast<double>(seen)), 1e-15);
    }
  }
}

TEST_F(ExactAttentionOnDevice, RowsAreTheSameBitsInAnyCompanyAndOrder) {
  const Stream stream;
  for (const std::size_t d : {64, 72, 200}) {
    const CallSpec spec{.shape = shape(1, 2, 1, 500, 300, d), .is_causal = true, .q_spread = 6};
    CapturedCall call(spec, stream.get());
    const auto problem = call.upload();
    const Result all = run(problem, {}, stream);
    const std::vector<std::uint32_t> rows{499, 3, 250, 251, 3, 208, 0, 499, 201, 200, 199, 77};
    const Result some = run(problem, rows, stream);
    ASSERT_EQ(some.lse.size(), rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::size_t row = i / 6 * 500 + rows[i];
      EXPECT_EQ(some.lse[i], all.lse[row]) << "row " << row << " d " << d;
      EXPECT_TRUE(std::equal(some.o.begin() + static_cast<std::ptrdiff_t>(i * d),
                             some.o.begin() + static_cast<std::ptrdiff_t>((i + 1) * d),
                             all.o.begin() + static_cast<std::ptrdiff_t>(row * d)))
          << "row " << row << " d " << d;
    }
    const Worst worst = compare(call, 2, rows, some);
    EXPECT_LE(worst.o, kTolerance) << worst.where;
  }
}

TEST_F(ExactAttentionOnDevice, RepeatsItselfToTheLastBit) {
  const Stream stream;
  CapturedCall call({.shape = shape(1, 4, 2, 400, 700, 128), .is_causal = true}, stream.get());
  const auto problem = call.upload();
  const Result first = run(problem, {}, stream);
  for (int i = 0; i < 3; ++i) {
    const Result again = run(problem, {}, stream);
    EXPECT_EQ(first.o, again.o);
    EXPECT_EQ(first.lse, again.lse);
  }
}

/// Where a value is bad, the CPU says which outputs are; elsewhere nothing changes.
TEST_F(ExactAttentionOnDevice, NonFiniteInputsReachExactlyTheRowsThatSeeThem) {
  const Stream stream;
  for (const std::size_t d : {16, 128, 256}) {
    for (const float bad : {kNaN, kInf}) {
      for (const char tensor : {'q', 'k', 'v'}) {
        if (tensor == 'k' && bad == kInf) continue;  // its scores are infinities of either sign
        CapturedCall call({.shape = shape(1, 1, 1, 300, 300, d), .is_causal = true}, stream.get());
        (tensor == 'q' ? call.q : tensor == 'k' ? call.k : call.v)[0](200, 5) = bad;
        const Result got = run(call.upload(), {}, stream);
        const ExactOutput expected = exact_attention(call.head(0));
        for (std::size_t i = 0; i < 300; ++i) {
          for (std::size_t c = 0; c < d; ++c) {
            const double a = got.o[i * d + c];
            const double e = expected.row(i)[c];
            if (std::isfinite(e)) {
              ASSERT_NEAR(a, e, 1e-12) << tensor << ' ' << bad << " d " << d << " row " << i << " channel " << c;
            } else {
              ASSERT_FALSE(std::isfinite(a)) << tensor << ' ' << bad << " d " << d << " row " << i << " channel " << c;
              ASSERT_EQ(std::isnan(a), std::isnan(e)) << tensor << ' ' << bad << " row " << i << " channel " << c;
            }
          }
          if (std::isnan(expected.lse[i])) {
            ASSERT_TRUE(std::isnan(got.lse[i])) << i;
          } else {
            ASSERT_NEAR(got.lse[i], expected.lse[i], 1e-12) << i;
          }
        }
      }
    }
  }
}

TEST_F(ExactAttentionOnDevice, RefusesShapesThatDisagree) {
  const Stream stream;
  CapturedCall call({.shape = shape(1, 1, 1, 4, 4, 8)}, stream.get());
  auto problem = call.upload();
  DeviceBuffer<double> o(4 * 8, stream.get());
  problem.v.tokens = 3;
  EXPECT_THROW(exact_attention(problem, {}, o.data(), nullptr, stream.get()), std::invalid_argument);
  problem.v.tokens = 4;
  problem.q.channels = problem.k.channels = 257;
  EXPECT_THROW(exact_attention(problem, {}, o.data(), nullptr, stream.get()), std::invalid_argument);
}

TEST_F(ExactAttentionOnDevice, FindsHeadsBeyondFourGigabytes) {
  const Stream stream;
  // Two heads whose keys and values lie 2^31 + 64 elements apart.
  constexpr std::int64_t kApart = (std::int64_t{1} << 31) + 64;
  std::size_t free = 0;
  std::size_t total = 0;
  SAGE2_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  if (free < std::size_t{6} << 30U) GTEST_SKIP() << "too little memory";
  CapturedCall call({.shape = shape(1, 2, 2, 20, 30, 64)}, stream.get());
  auto problem = call.upload();
  DeviceBuffer<std::uint16_t> far(static_cast<std::size_t>(kApart) + 2 * 30 * 64, stream.get());
  std::uint16_t* to = far.data();
  for (TensorView* t : {&problem.k, &problem.v}) {
    for (std::int64_t h = 0; h < 2; ++h) {
      SAGE2_CUDA_CHECK(cudaMemcpyAsync(to + h * kApart, static_cast<const std::uint16_t*>(t->data) + h * t->stride_head,
                                       30 * 64 * 2, cudaMemcpyDeviceToDevice, stream.get()));
    }
    t->data = to;
    t->stride_head = kApart;
    to += 30 * 64;
  }
  const Worst worst = compare(call, 2, {}, run(problem, {}, stream));
  EXPECT_LE(worst.o, kTolerance) << worst.where;
}

}  // namespace
}  // namespace sage2::cuda
