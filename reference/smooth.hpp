#pragma once

#include <cstddef>
#include <vector>

#include "datasets/problem.hpp"

/// Preprocessing of Q, K and V that leaves the attention unchanged in exact arithmetic.
namespace sage2 {

/// Mean of rows [first, last) per column: FP64 sums in ascending order, one rounding to FP32.
[[nodiscard]] std::vector<float> column_mean(const Matrix& m, std::size_t first, std::size_t last);

/// Rounds to a capture's format.
void round_to_dtype(std::vector<float>& values, DType dtype);

/// Subtracts `mean` from rows [first, last), in FP32.
void subtract(Matrix& m, const std::vector<float>& mean, std::size_t first, std::size_t last);

/// HadamardAttn: multiplies every row by D H / sqrt(n), where D holds fixed random signs and H is the Walsh-Hadamard
/// matrix of the next power of two n >= cols (rows are padded with zeros). The same for Q and K, so QK^T is unchanged.
[[nodiscard]] Matrix hadamard(const Matrix& m);

/// SmoothAttn, alpha = 0.5: lambda_c = sqrt(max over tokens |K_c|); K_c is divided and Q_c multiplied by it. Channels
/// of K that are all zero keep lambda = 1.
void smooth_attn(Matrix& q, Matrix& k);

/// v_outliers=clip: every channel is clipped to its mean +- 3 standard deviations.
void clip_outliers(Matrix& v);

/// v_outliers=median: values beyond mean +- 3 standard deviations of their channel become its median (the lower one).
void replace_outliers(Matrix& v);

/// v_outliers=split: the head_dim / 16 channels with the largest magnitudes (at least one), ascending; ties go to the
/// lower index. A sixteenth is what one more small FP16 product can carry.
[[nodiscard]] std::vector<std::uint32_t> outlier_channels(const Matrix& v);

}  // namespace sage2
