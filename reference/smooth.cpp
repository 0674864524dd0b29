#include "reference/smooth.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>
#include <numeric>

#include "reference/formats.hpp"
#include "reference/simd.hpp"

namespace sage2 {
namespace {

struct Band {
  double low, high;
};

/// Mean +- 3 standard deviations of column c.
Band three_sigma(const Matrix& m, std::size_t c) {
  double sum = 0;
  for (std::size_t i = 0; i < m.rows; ++i) sum += static_cast<double>(m(i, c));
  const double mean = sum / static_cast<double>(m.rows);
  double squares = 0;
  for (std::size_t i = 0; i < m.rows; ++i) {
    const double x = static_cast<double>(m(i, c)) - mean;
    squares += x * x;
  }
  const double reach = 3 * std::sqrt(squares / static_cast<double>(m.rows));
  return {mean - reach, mean + reach};
}

}  // namespace

std::vector<float> column_mean(const Matrix& m, std::size_t first, std::size_t last) {
  std::vector<double> sum(m.cols, 0.0);
  for (std::size_t i = first; i < last; ++i) {
    const float* row = m.row(i);
    for (std::size_t c = 0; c < m.cols; ++c) sum[c] += static_cast<double>(row[c]);
  }
  std::vector<float> mean(m.cols);
  for (std::size_t c = 0; c < m.cols; ++c) mean[c] = static_cast<float>(sum[c] / static_cast<double>(last - first));
  return mean;
}

void round_to_dtype(std::vector<float>& values, DType dtype) {
  if (dtype == DType::float32) return;
  for (float& x : values) x = dtype == DType::float16 ? round_fp16(x) : round_bf16(x);
}

void subtract(Matrix& m, const std::vector<float>& mean, std::size_t first, std::size_t last) {
  for (std::size_t i = first; i < last; ++i) {
    float* row = m.row(i);
    for (std::size_t c = 0; c < m.cols; ++c) row[c] -= mean[c];
  }
}

Matrix delta_scores(const std::vector<std::vector<float>>& q_means, const Matrix& k, float sm_scale,
                    std::size_t padded_len) {
  using simd::Doubles;
  constexpr std::size_t kKeys = 32;  // side by side, so that the order of each sum is that of its channels
  constexpr std::size_t kVectors = kKeys * sizeof(double) / sizeof(Doubles);
  const double factor = static_cast<double>(sm_scale) * std::numbers::log2e;
  Matrix out(q_means.size(), padded_len);
  std::vector<double> means(q_means.size() * k.cols);
  for (std::size_t b = 0; b < q_means.size(); ++b) {
    for (std::size_t c = 0; c < k.cols; ++c) means[b * k.cols + c] = static_cast<double>(q_means[b][c]) * factor;
  }
  std::vector<double> keys(k.cols * kKeys);  // [channel][key]
  for (std::size_t first = 0; first < k.rows; first += kKeys) {
    const std::size_t count = std::min(kKeys, k.rows - first);
    for (std::size_t j = 0; j < count; ++j) {
      for (std::size_t c = 0; c < k.cols; ++c) keys[c * kKeys + j] = static_cast<double>(k(first + j, c));
    }
    for (std::size_t b = 0; b < q_means.size(); ++b) {
      Doubles sum[kVectors] = {};
      for (std::size_t c = 0; c < k.cols; ++c) {
        const double mean = means[b * k.cols + c];
        for (std::size_t i = 0; i < kVectors; ++i) {
          sum[i] += mean * simd::load<Doubles>(keys.data() + c * kKeys + i * (kKeys / kVectors));
        }
      }
      double spread[kKeys];
      for (std::size_t i = 0; i < kVectors; ++i) simd::store(spread + i * (kKeys / kVectors), sum[i]);
      for (std::size_t j = 0; j < count; ++j) out(b, first + j) = static_cast<float>(spread[j]);
    }
  }
  return out;
}

Matrix hadamard(const Matrix& m) {
  const std::size_t n = std::bit_ceil(m.cols);
  const auto norm = static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
  Matrix out(m.rows, n);
  for (std::size_t i = 0; i < m.rows; ++i) {
    float* row = out.row(i);
    for (std::size_t c = 0; c < m.cols; ++c) row[c] = m(i, c) * random_sign(c);
    for (std::size_t half = 1; half < n; half *= 2) {
      for (std::size_t start = 0; start < n; start += 2 * half) {
        for (std::size_t c = start; c < start + half; ++c) {
          const float a = row[c];
          const float b = row[c + half];
          row[c] = a + b;
          row[c + half] = a - b;
        }
      }
    }
    for (std::size_t c = 0; c < n; ++c) row[c] *= norm;
  }
  return out;
}

void smooth_attn(Matrix& q, Matrix& k) {
  std::vector<float> lambda(k.cols, 0.0F);
  for (std::size_t i = 0; i < k.rows; ++i) {
    for (std::size_t c = 0; c < k.cols; ++c) lambda[c] = std::max(lambda[c], std::fabs(k(i, c)));
  }
  for (float& x : lambda) x = x > 0 ? std::sqrt(x) : 1.0F;
  for (std::size_t i = 0; i < k.rows; ++i) {
    for (std::size_t c = 0; c < k.cols; ++c) k(i, c) /= lambda[c];
  }
  for (std::size_t i = 0; i < q.rows; ++i) {
    for (std::size_t c = 0; c < q.cols; ++c) q(i, c) *= lambda[c];
  }
}

void clip_outliers(Matrix& v) {
  for (std::size_t c = 0; c < v.cols; ++c) {
    const auto [low, high] = three_sigma(v, c);
    for (std::size_t i = 0; i < v.rows; ++i) {
      v(i, c) = static_cast<float>(std::clamp(static_cast<double>(v(i, c)), low, high));
    }
  }
}

void replace_outliers(Matrix& v) {
  std::vector<float> column(v.rows);
  for (std::size_t c = 0; c < v.cols; ++c) {
    const auto [low, high] = three_sigma(v, c);
    for (std::size_t i = 0; i < v.rows; ++i) column[i] = v(i, c);
    const auto middle = column.begin() + static_cast<std::ptrdiff_t>((v.rows - 1) / 2);
    std::nth_element(column.begin(), middle, column.end());
    for (std::size_t i = 0; i < v.rows; ++i) {
      const auto x = static_cast<double>(v(i, c));
      if (x < low || x > high) v(i, c) = *middle;
    }
  }
}

std::vector<std::uint32_t> outlier_channels(const Matrix& v) {
  std::vector<float> largest(v.cols, 0.0F);
  for (std::size_t i = 0; i < v.rows; ++i) {
    for (std::size_t c = 0; c < v.cols; ++c) largest[c] = std::max(largest[c], std::fabs(v(i, c)));
  }
  std::vector<std::uint32_t> order(v.cols);
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return largest[a] > largest[b]; });
  order.resize(std::max<std::size_t>(1, v.cols / 16));
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace sage2
