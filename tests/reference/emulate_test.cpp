#include "reference/emulate.hpp"

#include <gtest/gtest.h>

#include <numbers>
#include <set>

#include "reference/exact_attention.hpp"
#include "tests/reference/plain_emulation.hpp"
#include "tests/reference/problems.hpp"

namespace sage2 {
namespace {

using testing::ProblemSpec;
using testing::random_problem;

/// Every variant of every list, on every architecture where it makes sense.
std::vector<Variant> many_variants() {
  std::set<Variant> all;
  for (const auto& s : suites()) {
    for (const auto& row : s.rows) all.insert(row.variant);
  }
  for (const char* text : {"sage2-8b@hopper",
                           "sage2-4b@hopper",
                           "sage2pp-8b@hopper",
                           "sage2-4b@blackwell",
                           "sage2-4b@ampere",
                           "sage1@hopper",
                           "fp16@hopper",
                           "fp16@ampere",
                           "fp16:qk=bf16,p=bf16,v=bf16",
                           "sage2-8b:p=int8,v=int8,v_outliers=split",
                           "sage2-8b:v_gran=per_block",
                           "sage2-8b:v_gran=per_block,pv_accum=exact",
                           "sage2-8b:v_gran=per_tensor",
                           "sage1:pv_accum=fp16",
                           "sage2pp-8b:pv_accum=fp16",
                           "sage2-8b:qk=int2",
                           "sage2-8b:qk=int6,transform=hadamard",
                           "sage2-8b:geometry=64x32w16",
                           "sage2-8b:qk=e4m3,qk_accum=fp32",
                           "sage2-4b:p=e5m2,v=e4m3,pv_accum=fp32",
                           "sage2-8b:q=int8,k=int4",
                           "fa3-fp8:p=exact",
                           "sage2pp-4b:p=exact",
                           "sage2-4b:smooth_v=on,v_outliers=clip"}) {
    all.insert(parse_variant(text));
  }
  return {all.begin(), all.end()};
}

void expect_same(const HeadProblem& problem, const Variant& variant) {
  const auto fast = emulate(problem, variant);
  const auto operands = quantize(problem, variant);
  // FP64 sums of the two are in different orders; everything else must agree to the last bit.
  const bool fp64 = variant.pv_accum == PvAccum::exact || is_integer(variant.p) ||
                    (!is_integer(variant.q) && variant.qk_accum == QkAccum::exact) || !is_integer(variant.k);
  for (std::size_t i = 0; i < problem.q.rows; ++i) {
    const auto plain = testing::PlainRow(problem, variant, operands, i).run();
    for (std::size_t c = 0; c < plain.size(); ++c) {
      const float a = fast.o(i, c);
      if (fp64) {
        // One rounding to FP32 of sums that differ by 2^-53 relative to their terms, and what FP8 codes at a tie make
        // of it: at most one element in some thousand differs by more, so compare loosely here.
        ASSERT_TRUE(std::fabs(a - plain[c]) <= 1e-3F * (1 + std::fabs(a))) << canonical(variant) << " row " << i;
      } else {
        ASSERT_EQ(a, plain[c]) << canonical(variant) << " row " << i << " channel " << c;
      }
    }
  }
}

TEST(Emulate, AgreesWithThePlainLoopForEveryVariant) {
  ProblemSpec spec;
  spec.q_len = 70;
  spec.kv_len = 150;
  spec.k_bias = 1;
  spec.q_bias = 0.5F;
  spec.v_bias = 2;
  const auto problem = random_problem(spec);
  for (const auto& variant : many_variants()) expect_same(problem, variant);
}

TEST(Emulate, AgreesForEveryShapeAndMask) {
  const std::size_t lengths[][2] = {{1, 1}, {1, 63}, {33, 1}, {65, 64}, {64, 65}, {130, 127}, {200, 90}, {90, 200}};
  for (const auto& [q_len, kv_len] : lengths) {
    for (const std::size_t head_dim : {64U, 96U, 128U, 40U}) {
      for (const int mask : {0, 1, 2}) {
        ProblemSpec spec;
        spec.q_len = q_len;
        spec.kv_len = kv_len;
        spec.head_dim = head_dim;
        spec.is_causal = mask > 0;
        spec.causal_align = mask == 2 ? CausalAlign::top_left : CausalAlign::bottom_right;
        spec.q_bias = 1;
        const auto problem = random_problem(spec);
        for (const char* text : {"sage2-4b", "sage2-4b-v1", "sage2pp-8b@hopper"}) {
          expect_same(problem, parse_variant(text));
        }
      }
    }
  }
}

/// One order for all engines: products, then sums over ascending channels, in plain FP64, rounded once. Lengths around
/// the number of keys that are computed side by side.
TEST(Emulate, DeltaScoresAreOrderedSums) {
  for (const std::size_t kv_len : {1U, 31U, 32U, 33U, 100U}) {
    ProblemSpec spec;
    spec.q_len = 200;
    spec.kv_len = kv_len;
    spec.head_dim = 40;
    spec.q_bias = spec.k_bias = 2;
    const auto problem = random_problem(spec);
    const auto out = quantize(problem, parse_variant("sage2-4b:smooth_k=off"));
    ASSERT_EQ(out.delta_s.rows, 2U);
    const double factor = static_cast<double>(problem.sm_scale) * std::numbers::log2e;
    for (std::size_t b = 0; b < 2; ++b) {
      const std::size_t first = b * 128;
      const std::size_t last = std::min<std::size_t>(first + 128, spec.q_len);
      for (std::size_t j = 0; j < kv_len; ++j) {
        double sum = 0;
        for (std::size_t c = 0; c < spec.head_dim; ++c) {
          double mean = 0;
          for (std::size_t i = first; i < last; ++i) mean += static_cast<double>(problem.q(i, c));
          const double rounded = static_cast<float>(mean / static_cast<double>(last - first));
          const double product = rounded * factor * static_cast<double>(problem.k(j, c));
          sum += product;
        }
        ASSERT_EQ(out.delta_s(b, j), static_cast<float>(sum)) << b << " " << j;
      }
    }
  }
}

/// Against the FP64 reference: `exact` differs only by FP32's softmax. |error| of a probability is a few ulp of the
/// score times ln 2, scores stay below 2^6: 2^6 x 2^-24 x a few = 1e-5 relative to |V|, which is below 10 here.
TEST(Emulate, ExactIsExactUpToFp32) {
  for (const bool causal : {false, true}) {
    ProblemSpec spec;
    spec.q_len = 130;
    spec.kv_len = 170;
    spec.is_causal = causal;
    spec.q_spread = 3;
    const auto problem = random_problem(spec);
    const auto exact = exact_attention(problem);
    const auto out = emulate(problem, parse_variant("exact"));
    for (std::size_t i = 0; i < exact.rows; ++i) {
      for (std::size_t c = 0; c < exact.cols; ++c) {
        const double error = std::fabs(exact.row(i)[c] - static_cast<double>(out.o(i, c)));
        ASSERT_TRUE(error <= 1e-4) << i << " " << c;
      }
    }
  }
}

/// With more bits the error falls by about four per two bits, down to the floor that FP8 sets.
TEST(Emulate, MoreBitsAreBetter) {
  ProblemSpec spec;
  spec.q_len = spec.kv_len = 256;
  const auto problem = random_problem(spec);
  const auto exact = exact_attention(problem);
  double before = 1e9;
  for (const char* bits : {"int2", "int3", "int4", "int5", "int6", "int7", "int8"}) {
    const auto out = emulate(problem, parse_variant(std::string("sage2-8b:p=fp16,v=fp16,qk=") + bits));
    double sum = 0;
    for (std::size_t i = 0; i < exact.rows; ++i) {
      for (std::size_t c = 0; c < exact.cols; ++c)
        sum += std::pow(exact.row(i)[c] - static_cast<double>(out.o(i, c)), 2);
    }
    EXPECT_TRUE(sum < before) << bits;
    before = sum;
  }
}

TEST(Emulate, RowSubsetsAreRowsOfTheWhole) {
  ProblemSpec spec;
  spec.q_len = 300;
  spec.kv_len = 200;
  spec.is_causal = true;
  const auto problem = random_problem(spec);
  const auto variant = parse_variant("sage2-4b");
  const auto whole = emulate(problem, variant);
  const std::vector<std::uint32_t> rows{299, 3, 150, 150, 0, 128};
  const auto some = emulate(problem, variant, rows);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t c = 0; c < problem.v.cols; ++c) ASSERT_EQ(some.o(i, c), whole.o(rows[i], c)) << rows[i];
  }
}

/// Where official kernels return NaN: all-zero channels, rows and blocks.
TEST(Emulate, ZerosGiveZerosNotNan) {
  ProblemSpec spec;
  spec.q_len = spec.kv_len = 150;
  for (const auto& variant : many_variants()) {
    auto problem = random_problem(spec);
    for (std::size_t i = 0; i < 150; ++i) {
      problem.v(i, 7) = 0;
      if (i < 70) std::fill_n(problem.q.row(i), 64, 0.0F);
      if (i >= 64 && i < 128) std::fill_n(problem.k.row(i), 64, 0.0F);
    }
    const auto out = emulate(problem, variant);
    for (std::size_t i = 0; i < 150; ++i) {
      for (std::size_t c = 0; c < 64; ++c) ASSERT_TRUE(std::isfinite(out.o(i, c))) << canonical(variant);
      ASSERT_EQ(out.o(i, 7), 0.0F) << canonical(variant);
    }
    std::fill(problem.q.data.begin(), problem.q.data.end(), 0.0F);
    std::fill(problem.k.data.begin(), problem.k.data.end(), 0.0F);
    std::fill(problem.v.data.begin(), problem.v.data.end(), 0.0F);
    for (const float x : emulate(problem, variant).o.data) ASSERT_EQ(x, 0.0F) << canonical(variant);
  }
}

/// A value beyond FP16 is NaN in what sees it, and nothing else knows of it: a channel of V in the rows that see the
/// token; rows that see a key; a row of Q.
TEST(Emulate, OverflowOfFp16IsVisible) {
  ProblemSpec spec;
  spec.q_len = spec.kv_len = 100;
  spec.is_causal = true;
  auto plain = random_problem(spec);
  plain.dtype = DType::bfloat16;
  for (const char* text : {"fp16", "fp16:qk_accum=exact,pv_accum=exact", "sage1", "fp16:qk=bf16,p=exact,v=fp16"}) {
    const auto variant = parse_variant(text);
    for (const char which : {'q', 'k', 'v'}) {
      if (which != 'v' && variant.q != Format::fp16) continue;
      auto problem = plain;
      auto zero = plain;
      auto& bad = which == 'q' ? problem.q : (which == 'k' ? problem.k : problem.v);
      auto& without = which == 'q' ? zero.q : (which == 'k' ? zero.k : zero.v);
      bad(50, 3) = 1e6F;
      without(50, 3) = 0;
      auto smooth = variant;
      smooth.smooth_k = false;  // the mean would carry it to other keys
      const auto out = emulate(problem, smooth);
      const auto truth = emulate(zero, smooth);
      for (std::size_t i = 0; i < 100; ++i) {
        for (std::size_t c = 0; c < 64; ++c) {
          const bool sees = which == 'q' ? i == 50 : (i >= 50 && (which == 'k' || c == 3));
          if (sees) {
            EXPECT_TRUE(std::isnan(out.o(i, c))) << text << " " << which << " " << i << " " << c;
          } else {
            EXPECT_EQ(out.o(i, c), truth.o(i, c)) << text << " " << which << " " << i << " " << c;
          }
        }
      }
    }
  }
}

/// Counts on a case that can be counted by hand: one key dominates every row, so all other entries underflow.
TEST(Emulate, CountsUnderflow) {
  ProblemSpec spec;
  spec.q_len = 10;
  spec.kv_len = 20;
  auto problem = random_problem(spec);
  std::fill(problem.q.data.begin(), problem.q.data.end(), 1.0F);
  std::fill(problem.k.data.begin(), problem.k.data.end(), 0.0F);
  std::fill_n(problem.k.row(4), 64, 8.0F);  // score 64: e^-64 of the others is far below 2.2e-6
  const auto out = emulate(problem, parse_variant("sage2-8b:smooth_k=off"));
  EXPECT_EQ(out.p_total, 200U);
  EXPECT_EQ(out.p_underflow, 190U);
  EXPECT_EQ(out.saturated, 0U);
}

TEST(Emulate, OutputFormats) {
  const auto problem = random_problem({});
  const auto plain = emulate(problem, parse_variant("sage2-8b"));
  const auto half = emulate(problem, parse_variant("sage2-8b:o=fp16"));
  const auto brain = emulate(problem, parse_variant("sage2-8b:o=bf16"));
  for (std::size_t i = 0; i < plain.o.data.size(); ++i) {
    ASSERT_EQ(half.o.data[i], round_fp16(plain.o.data[i]));
    ASSERT_EQ(brain.o.data[i], round_bf16(plain.o.data[i]));
  }
}

}  // namespace
}  // namespace sage2
