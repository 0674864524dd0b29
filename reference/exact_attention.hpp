#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "datasets/problem.hpp"

/// Attention in FP64: the truth that every engine is judged against.
namespace sage2 {

/// O [rows, cols], row-major, and the log-sum-exp of each row.
struct ExactOutput {
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::vector<double> o;
  std::vector<double> lse;  ///< natural logarithm of sum_j exp(sm_scale q_i . k_j), [rows]

  [[nodiscard]] std::span<const double> row(std::size_t i) const { return {o.data() + i * cols, cols}; }
};

/// O_i = sum_j softmax_j(sm_scale q_i . k_j) v_j over the keys that row i sees, for the given query rows in the given
/// order (empty: all rows). A row that sees no key has o = 0 and lse = -infinity. Non-finite inputs make exactly those
/// rows NaN that see them.
///
/// Blocks of queries and keys with a running maximum: memory is the output and a few MiB a thread, whatever the
/// lengths. Query blocks run in parallel (OpenMP); a row's result depends neither on the number of threads nor on the
/// other rows asked for. Throws std::invalid_argument where shapes disagree or a row does not exist.
[[nodiscard]] ExactOutput exact_attention(const HeadProblem& problem, std::span<const std::uint32_t> rows = {});

/// How far `exact_attention` can be from the mathematical result of its FP32 inputs.
struct ExactBound {
  double o;    ///< |o_ic - exact| <= o * sum_j p_ij |v_jc|
  double lse;  ///< |lse_i - exact| <= lse
};

/// The bound of a row that sees `keys` keys with `max_score` >= sm_scale sum_c |q_ic| |k_jc| for each of them. Derived
/// in docs/numerics-reference.md.
[[nodiscard]] ExactBound exact_attention_bound(std::size_t head_dim, std::size_t keys, double max_score);

}  // namespace sage2
