#include "reference/quantize.hpp"

#include <algorithm>
#include <cmath>

#include "reference/formats.hpp"
#include "reference/scale_rules.hpp"
#include "reference/smooth.hpp"

namespace sage2 {
namespace {

/// Accumulator groups are at most 32 products long, and tiles a multiple of 32 keys.
constexpr std::size_t kDepthMultiple = 32;
std::size_t round_up(std::size_t n, std::size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/// Copies into a zero-filled matrix of at least that size.
Matrix padded(const Matrix& m, std::size_t rows, std::size_t cols) {
  Matrix out(rows, cols);
  for (std::size_t i = 0; i < m.rows; ++i) std::copy_n(m.row(i), m.cols, out.row(i));
  return out;
}

float row_amax(const float* row, std::size_t cols) {
  float amax = 0;
  for (std::size_t c = 0; c < cols; ++c) {
    const float a = std::fabs(row[c]);
    amax = a > amax ? a : amax;
  }
  return amax;
}

/// Numbers the scale groups: row i belongs to group result[i].
std::vector<std::uint32_t> groups_of(std::size_t rows, QkGran gran, const Geometry& g, bool is_q) {
  std::vector<std::uint32_t> group(rows);
  for (std::size_t i = 0; i < rows; ++i) group[i] = static_cast<std::uint32_t>(scale_group(i, gran, g, is_q));
  return group;
}

struct Rounding {
  Format format;
  bool half_away;  ///< the Triton quantiser's rounding and epsilon
};

/// x[i] becomes round(x[i] / scale[i]), clamped to +-top; returns how many were beyond `limit`. Separate simple loops,
/// so that all of them vectorise.
template <class Round>
std::uint64_t encode(float* __restrict x, const float* __restrict scale, std::size_t n, float top, float limit,
                     const Round& round) {
  std::int32_t clamped = 0;
  for (std::size_t i = 0; i < n; ++i) x[i] = round(x[i] / scale[i]);
  for (std::size_t i = 0; i < n; ++i) clamped += std::fabs(x[i]) > limit ? 1 : 0;
  for (std::size_t i = 0; i < n; ++i) x[i] = x[i] > top ? top : (x[i] < -top ? -top : x[i]);
  return static_cast<std::uint64_t>(clamped);
}

/// Codes of one row, each element with its own scale.
std::uint64_t encode_row(float* x, const float* scale, std::size_t n, Rounding how) {
  const float top = format_top(how.format);
  if (is_fp8(how.format)) {
    const auto clamped = encode(x, scale, n, INFINITY, saturation_limit(how.format), [](float y) { return y; });
    for (std::size_t i = 0; i < n; ++i) x[i] = how.format == Format::e4m3 ? round_e4m3(x[i]) : round_e5m2(x[i]);
    return clamped;
  }
  if (how.half_away) return encode(x, scale, n, top, top, [](float y) { return round_half_away(y); });
  return encode(x, scale, n, top, top, [](float y) { return round_half_even(y); });
}

/// Quantises the rows of Q or K in place, group by group.
std::vector<float> quantize_rows(Matrix& m, Format format, const std::vector<std::uint32_t>& group, bool half_away,
                                 std::uint64_t& saturated) {
  if (!is_scaled(format)) {
    for (float& x : m.data) x = round_to(format, x);
    return std::vector<float>(m.rows, 1.0F);
  }
  const Rounding how{format, half_away};
  std::vector<float> scale;
  for (std::size_t i = 0; i < m.rows; ++i) {
    if (group[i] >= scale.size()) scale.resize(group[i] + 1, 0.0F);
    scale[group[i]] = std::max(scale[group[i]], row_amax(m.row(i), m.cols));
  }
  for (float& s : scale) s = qk_scale(s, format, half_away);
  std::vector<float> row_scale(m.rows);
  std::vector<float> spread(m.cols);
  for (std::size_t i = 0; i < m.rows; ++i) {
    row_scale[i] = scale[group[i]];
    std::fill(spread.begin(), spread.end(), row_scale[i]);
    saturated += encode_row(m.row(i), spread.data(), m.cols, how);
  }
  return row_scale;
}

void quantize_qk(const HeadProblem& problem, const Variant& variant, Operands& out) {
  Matrix q = problem.q;
  Matrix k = problem.k;
  if (variant.smooth_k) {
    auto mean = column_mean(k, 0, k.rows);
    round_to_dtype(mean, problem.dtype);
    subtract(k, mean, 0, k.rows);
  }
  const std::size_t k_rows = round_up(k.rows, variant.geometry.k_tile);
  if (variant.smooth_q) {
    std::vector<std::vector<float>> means;
    for (std::size_t first = 0; first < q.rows; first += kSmoothQBlock) {
      const std::size_t last = std::min(first + kSmoothQBlock, q.rows);
      means.push_back(column_mean(q, first, last));
      subtract(q, means.back(), first, last);
    }
    out.delta_s = delta_scores(means, k, problem.sm_scale, k_rows);
  }
  if (variant.transform == Transform::hadamard) {
    q = hadamard(q);
    k = hadamard(k);
  } else if (variant.transform == Transform::smoothattn) {
    smooth_attn(q, k);
  }
  const bool half_away = follows_triton(variant.qk_gran);
  const std::size_t depth = round_up(q.cols, kDepthMultiple);
  out.q.scale =
      quantize_rows(q, variant.q, groups_of(q.rows, variant.qk_gran, variant.geometry, true), half_away, out.saturated);
  out.k.scale = quantize_rows(k, variant.k, groups_of(k.rows, variant.qk_gran, variant.geometry, false), half_away,
                              out.saturated);
  out.k.scale.resize(k_rows, 0.0F);
  out.q.codes = q.cols == depth ? std::move(q) : padded(q, q.rows, depth);
  out.k.codes = k.cols == depth && k.rows == k_rows ? std::move(k) : padded(k, k_rows, depth);
}

/// Scale of each element's group of V: [1, cols] or [tiles, cols].
Matrix v_scales(const Matrix& v, const Variant& variant) {
  const std::size_t tile = variant.v_gran == VGran::per_block ? variant.geometry.k_tile : v.rows;
  Matrix scale((v.rows + tile - 1) / tile, v.cols);
  for (std::size_t i = 0; i < v.rows; ++i) {
    float* row = scale.row(i / tile);
    for (std::size_t c = 0; c < v.cols; ++c) row[c] = std::max(row[c], std::fabs(v(i, c)));
  }
  for (std::size_t b = 0; b < scale.rows; ++b) {
    float* row = scale.row(b);
    if (variant.v_gran != VGran::per_channel) std::fill_n(row, v.cols, *std::max_element(row, row + v.cols));
    for (std::size_t c = 0; c < v.cols; ++c) row[c] = v_scale(row[c], v_range(variant));
  }
  return scale;
}

VOperand v_part(const Matrix& v, std::vector<std::uint32_t> channels, Format format, const Variant& variant,
                std::uint64_t& saturated) {
  VOperand part;
  part.format = format;
  Matrix chosen(v.rows, channels.size());
  for (std::size_t i = 0; i < v.rows; ++i) {
    for (std::size_t c = 0; c < channels.size(); ++c) chosen(i, c) = v(i, channels[c]);
  }
  part.channels = std::move(channels);
  if (is_scaled(format)) {
    part.scale = v_scales(chosen, variant);
    const std::size_t tile = variant.v_gran == VGran::per_block ? variant.geometry.k_tile : v.rows;
    const Rounding how{format, false};
    for (std::size_t i = 0; i < v.rows; ++i) {
      // Only codes beyond the format's own range count, not those at SageAttention2++'s smaller one.
      saturated += encode_row(chosen.row(i), part.scale.row(i / tile), chosen.cols, how);
    }
  } else {
    part.scale = Matrix(1, chosen.cols);
    std::fill(part.scale.data.begin(), part.scale.data.end(), 1.0F);
    for (float& x : chosen.data) x = round_to(format, x);
  }
  part.codes = padded(chosen, round_up(v.rows, variant.geometry.k_tile), chosen.cols);
  return part;
}

void quantize_v(const HeadProblem& problem, const Variant& variant, Operands& out) {
  Matrix v = problem.v;
  if (variant.smooth_v) {
    out.v_mean = column_mean(v, 0, v.rows);
    subtract(v, out.v_mean, 0, v.rows);
  }
  std::vector<std::uint32_t> outliers;
  switch (variant.v_outliers) {
    case VOutliers::none:
      break;
    case VOutliers::clip:
      clip_outliers(v);
      break;
    case VOutliers::median:
      replace_outliers(v);
      break;
    case VOutliers::split:
      outliers = outlier_channels(v);
      break;
  }
  std::vector<std::uint32_t> rest;
  for (std::uint32_t c = 0; c < v.cols; ++c) {
    if (!std::binary_search(outliers.begin(), outliers.end(), c)) rest.push_back(c);
  }
  if (!rest.empty()) out.v.push_back(v_part(v, std::move(rest), variant.v, variant, out.saturated));
  if (!outliers.empty()) out.v.push_back(v_part(v, std::move(outliers), Format::fp16, variant, out.saturated));
}

}  // namespace

float v_range(const Variant& variant) {
  const bool half = variant.pv_accum == PvAccum::fp32_fp16 || variant.pv_accum == PvAccum::fp16;
  return is_fp8(variant.v) && half ? 2.25F : format_top(variant.v);
}

Operands quantize(const HeadProblem& problem, const Variant& variant) {
  Operands out;
  quantize_qk(problem, variant, out);
  quantize_v(problem, variant, out);
  return out;
}

}  // namespace sage2
