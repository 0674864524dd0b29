#include "kernels/quantize.hpp"

#include <gtest/gtest.h>

#include "reference/quantize.hpp"
#include "tests/kernels/calls.hpp"
#include "tests/kernels/variants.hpp"

namespace sage2 {
namespace {

using cuda::Stream;
using testing::device_calls::all_variants;
using testing::device_calls::Call;
using testing::device_calls::CallSpec;
using testing::device_calls::first_difference;

/// What was copied from the device.
struct Downloaded {
  std::vector<float> q, q_scale, k, k_scale, delta_s, v_mean;
  std::vector<std::uint64_t> saturated;
};

/// Compares all operands of all heads with the CPU's, bit for bit.
void expect_same(const Call& call, const Variant& variant, const std::string& what, const Stream& stream) {
  const auto device = cuda::quantize(call.device(), variant, stream.get());
  const Downloaded got{device.q.codes.download(),  device.q.scale.download(), device.k.codes.download(),
                       device.k.scale.download(),  device.delta_s.download(), device.v_mean.download(),
                       device.saturated.download()};
  struct Part {
    std::vector<std::uint32_t> channels;
    std::vector<float> codes, scale;
  };
  std::vector<Part> parts;
  for (const auto& p : device.v) parts.push_back({p.channels.download(), p.codes.download(), p.scale.download()});
  const auto check = [&](const char* name, std::size_t head, const float* from, const float* truth, std::size_t rows,
                         std::size_t cols) {
    const auto difference = first_difference(from, truth, rows, cols);
    EXPECT_EQ(difference, "") << name << " of head " << head << ", " << canonical(variant) << ", " << what;
    return difference.empty();
  };
  for (std::size_t h = 0; h < call.heads().size(); ++h) {
    const auto host = quantize(call.heads()[h], variant);
    const std::size_t kv = call.kv_head(h);
    const auto& q = host.q.codes;
    const auto& k = host.k.codes;
    ASSERT_EQ(device.q.depth, static_cast<std::int64_t>(q.cols)) << canonical(variant);
    ASSERT_EQ(device.k.tokens, static_cast<std::int64_t>(k.rows)) << canonical(variant);
    bool same = check("Q", h, got.q.data() + h * q.data.size(), q.data.data(), q.rows, q.cols);
    same &= check("scale of Q", h, got.q_scale.data() + h * q.rows, host.q.scale.data(), q.rows, 1);
    same &= check("K", h, got.k.data() + kv * k.data.size(), k.data.data(), k.rows, k.cols);
    same &= check("scale of K", h, got.k_scale.data() + kv * k.rows, host.k.scale.data(), k.rows, 1);
    ASSERT_EQ(got.delta_s.size(), host.delta_s.data.size() * call.heads().size()) << canonical(variant);
    same &= check("dS", h, got.delta_s.data() + h * host.delta_s.data.size(), host.delta_s.data.data(),
                  host.delta_s.rows, host.delta_s.cols);
    ASSERT_EQ(got.v_mean.empty(), host.v_mean.empty()) << canonical(variant);
    same &=
        check("mean of V", h, got.v_mean.data() + kv * host.v_mean.size(), host.v_mean.data(), 1, host.v_mean.size());
    ASSERT_EQ(parts.size(), host.v.size()) << canonical(variant) << ", " << what;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const auto& truth = host.v[i];
      ASSERT_EQ(device.v[i].format, truth.format);
      ASSERT_EQ(device.v[i].tokens, static_cast<std::int64_t>(truth.codes.rows));
      ASSERT_EQ(device.v[i].scale_rows, static_cast<std::int64_t>(truth.scale.rows));
      const std::size_t count = truth.channels.size();
      ASSERT_EQ(device.v[i].count, static_cast<std::int64_t>(count));
      const std::vector<std::uint32_t> channels(
          parts[i].channels.begin() + static_cast<std::ptrdiff_t>(kv * count),
          parts[i].channels.begin() + static_cast<std::ptrdiff_t>((kv + 1) * count));
      EXPECT_EQ(channels, truth.channels) << canonical(variant) << ", part " << i << ", " << what;
      same &= check("V", h, parts[i].codes.data() + kv * truth.codes.data.size(), truth.codes.data.data(),
                    truth.codes.rows, count);
      same &= check("scale of V", h, parts[i].scale.data() + kv * truth.scale.data.size(), truth.scale.data.data(),
                    truth.scale.rows, count);
    }
    EXPECT_EQ(got.saturated[h], host.saturated) << "head " << h << ", " << canonical(variant) << ", " << what;
    if (!same) return;  // one head tells enough
  }
}

void expect_same(const CallSpec& spec, const std::vector<Variant>& variants, const Call::Change& change = {}) {
  const Stream stream;
  const Call call(spec, stream.get(), change);
  for (const auto& variant : variants) expect_same(call, variant, spec.name(), stream);
}

/// Variants that between them go through every step of the quantisers.
std::vector<Variant> step_variants() {
  std::vector<Variant> out;
  for (const char* text :
       {"sage2-4b-v1", "sage2-8b", "sage1", "int4-hadamard", "int4-smoothattn", "sage2-4b:smooth_v=on,v_outliers=clip",
        "sage2-8b:v_outliers=median", "sage2pp-8b:v_outliers=split,smooth_v=on", "sage2-8b:v_gran=per_block", "fa3-fp8",
        "fp16", "sage2-4b:qk_gran=per_token,p=int8,v=int8,v_gran=per_tensor"}) {
    out.push_back(parse_variant(text));
  }
  return out;
}

TEST(QuantizeOnDevice, AgreesForEveryVariant) {
  SAGE2_NEEDS_GPU();
  CallSpec spec;
  spec.q_len = 300;
  spec.kv_len = 333;
  expect_same(spec, all_variants());
}

TEST(QuantizeOnDevice, AgreesForEveryShapeFormatAndLayout) {
  SAGE2_NEEDS_GPU();
  std::uint64_t seed = 10;
  for (const std::int64_t dim : {1, 2, 40, 64, 96, 128, 256}) {
    for (const auto& [q_len, kv_len] : std::vector<std::pair<int, int>>{{1, 1}, {31, 130}, {129, 65}, {257, 600}}) {
      CallSpec spec;
      spec.head_dim = dim;
      spec.q_len = q_len;
      spec.kv_len = kv_len;
      spec.batch = 2;
      spec.q_heads = 4;
      spec.dtype = static_cast<DType>(seed % 3);
      spec.nhd = seed % 2 == 0;
      spec.seed = seed++;
      expect_same(spec, step_variants());
    }
  }
}

/// Sums that round: the order of every one of them shows in the result.
TEST(QuantizeOnDevice, AgreesWhereSumsRound) {
  SAGE2_NEEDS_GPU();
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    CallSpec spec;
    spec.dtype = dtype;
    spec.q_len = 500;
    spec.kv_len = 5000;
    spec.head_dim = 72;
    spec.k_bias = spec.v_bias = 100;
    // Exponents from 2^-30 to 2^20 in one channel: 53 bits do not hold their sum.
    expect_same(spec, step_variants(), [&](Matrix& q, Matrix& k, Matrix& v) {
      testing::Random random(99);
      for (auto* m : {&q, &k, &v}) {
        for (std::size_t i = 0; i < m->rows; ++i) {
          (*m)(i, 3) = std::ldexp((*m)(i, 3), static_cast<int>(random() % 51) - 30);
        }
        round_to_dtype(m->data, dtype);
      }
    });
  }
}

TEST(QuantizeOnDevice, ZerosAndOutliers) {
  SAGE2_NEEDS_GPU();
  CallSpec spec;
  spec.q_len = spec.kv_len = 200;
  expect_same(spec, all_variants(), [](Matrix& q, Matrix& k, Matrix& v) {
    for (std::size_t i = 0; i < 200; ++i) {
      v(i, 7) = 0;
      k(i, 9) = 0;
      v(i, 11) = i % 50 == 0 ? 100.0F : 0.5F;
      if (i < 70) std::fill_n(q.row(i), 64, 0.0F);
      if (i >= 64 && i < 128) std::fill_n(k.row(i), 64, 0.0F);
    }
  });
  expect_same(spec, step_variants(), [](Matrix& q, Matrix& k, Matrix& v) {
    for (auto* m : {&q, &k, &v}) std::fill(m->data.begin(), m->data.end(), 0.0F);
  });
}

}  // namespace
}  // namespace sage2
