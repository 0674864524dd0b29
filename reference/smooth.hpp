#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "datasets/problem.hpp"
#include "reference/host_device.hpp"

/// Preprocessing of Q, K and V that leaves the attention unchanged in exact arithmetic.
namespace sage2 {

/// Mean of rows [first, last) per column: FP64 sums in ascending order, one rounding to FP32.
[[nodiscard]] std::vector<float> column_mean(const Matrix& m, std::size_t first, std::size_t last);

/// Rounds to a capture's format.
void round_to_dtype(std::vector<float>& values, DType dtype);

/// Subtracts `mean` from rows [first, last), in FP32.
void subtract(Matrix& m, const std::vector<float>& mean, std::size_t first, std::size_t last);

/// dS of smooth Q for each block of query rows, [blocks, padded_len], zeros beyond the keys: the mean of the block
/// times sm_scale log2(e), rounded to FP64, times each smoothed key. Products and sums are FP64 operations of their
/// own, over ascending channels, and the sum is rounded to FP32 once: one order for all engines.
[[nodiscard]] Matrix delta_scores(const std::vector<std::vector<float>>& q_means, const Matrix& k, float sm_scale,
                                  std::size_t padded_len);

/// Sign of channel c in the Hadamard transform: the low bit of a SplitMix64 step, fixed for all time so that codes can
/// be compared.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr float random_sign(std::size_t c) {
  std::uint64_t x = (static_cast<std::uint64_t>(c) + 1) * 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
  return ((x ^ (x >> 31U)) & 1U) != 0 ? -1.0F : 1.0F;
}

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
