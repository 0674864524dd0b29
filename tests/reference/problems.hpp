#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "datasets/problem.hpp"

/// Small seeded attention problems for tests. Values are exact in FP16, as captured ones are, and the same on every
/// platform: the generator is fixed by the standard, the conversion to floating point is ours.
namespace sage2::testing {

using Random = std::mt19937_64;

/// In [0, 1), a multiple of 2^-24.
inline float uniform(Random& random) {
  return static_cast<float>(random() >> 40U) * 0x1p-24F;
}

/// Mean 0, variance 1, within (-6, 6): the sum of twelve uniforms, since libraries' logarithms differ in the last bit.
inline float gaussian(Random& random) {
  float sum = -6;
  for (int i = 0; i < 12; ++i) sum += uniform(random);
  return sum;
}

/// Nearest value of FP16 (ties to even), for |x| < 65504.
inline float to_fp16_value(float x) {
  if (std::abs(x) < 0x1p-14F) return (x + 0.75F) - 0.75F;  // subnormals of FP16 are multiples of 2^-24
  auto bits = std::bit_cast<std::uint32_t>(x);
  bits += 0xFFFU + ((bits >> 13U) & 1U);
  return std::bit_cast<float>(bits & ~0x1FFFU);
}

/// Gaussian entries times `spread`, around one random mean per channel of size `bias`.
inline Matrix random_matrix(std::size_t rows, std::size_t cols, Random& random, float spread = 1, float bias = 0) {
  Matrix m(rows, cols);
  std::vector<float> mean(cols);
  for (float& x : mean) x = bias * gaussian(random);
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t c = 0; c < cols; ++c) m(i, c) = to_fp16_value(mean[c] + spread * gaussian(random));
  }
  return m;
}

struct ProblemSpec {
  std::size_t q_len = 64;
  std::size_t kv_len = 64;
  std::size_t head_dim = 64;
  bool is_causal = false;
  CausalAlign causal_align = CausalAlign::bottom_right;
  float q_spread = 1;  ///< larger: more peaked rows of P
  float q_bias = 0, k_bias = 0, v_bias = 0;
  std::uint64_t seed = 1;
};

/// Gaussian Q, K and V with sm_scale 1/sqrt(head_dim).
inline HeadProblem random_problem(const ProblemSpec& spec) {
  Random random(spec.seed);
  HeadProblem p;
  p.q = random_matrix(spec.q_len, spec.head_dim, random, spec.q_spread, spec.q_bias);
  p.k = random_matrix(spec.kv_len, spec.head_dim, random, 1, spec.k_bias);
  p.v = random_matrix(spec.kv_len, spec.head_dim, random, 1, spec.v_bias);
  p.is_causal = spec.is_causal;
  p.causal_align = spec.causal_align;
  p.sm_scale = 1.0F / std::sqrt(static_cast<float>(spec.head_dim));
  return p;
}

}  // namespace sage2::testing
