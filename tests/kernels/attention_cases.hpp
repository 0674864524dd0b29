#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "fmt/core.h"
#include "kernels/emulate.hpp"
#include "reference/emulate.hpp"
#include "tests/kernels/uploaded_operands.hpp"

/// Attention calls on which a kernel's outputs are compared with the CPU's emulation, bit for bit.
namespace sage2::cuda::testing {

using sage2::testing::ProblemSpec;

struct Case {
  ProblemSpec spec;
  std::size_t q_heads, kv_heads;
};

inline std::vector<Case> cases() {
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

inline std::string describe(const Case& c) {
  return fmt::format("q {} kv {} d {} heads {}/{}{}", c.spec.q_len, c.spec.kv_len, c.spec.head_dim, c.q_heads,
                     c.kv_heads, c.spec.is_causal ? " causal" : "");
}

/// Distance in units of the last place.
inline std::int64_t ulps(float a, float b) {
  const auto ordered = [](float x) {
    const auto bits = std::bit_cast<std::int32_t>(x);
    return static_cast<std::int64_t>(bits < 0 ? INT32_MIN - static_cast<std::int64_t>(bits) : bits);
  };
  if (std::isnan(a) || std::isnan(b)) return INT64_MAX;
  return std::abs(ordered(a) - ordered(b));
}

/// All the values of one variant over every case: each must have the emulation's bits, and the counts must be equal.
template <class Attention>
void expect_the_emulation(const std::string& text, const std::vector<Case>& all, const Attention& attention) {
  const Variant variant = parse_variant(text);
  std::size_t compared = 0;
  std::size_t identical = 0;
  std::int64_t worst = 0;
  std::string first;
  for (const auto& c : all) {
    const auto many = random_heads(c.spec, c.q_heads, c.kv_heads);
    const auto out = run(many, variant, attention);
    for (std::size_t h = 0; h < many.heads.size(); ++h) {
      const auto truth = sage2::emulate(many.heads[h], variant);
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

}  // namespace sage2::cuda::testing
