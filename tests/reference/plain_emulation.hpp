#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "reference/accumulator.hpp"
#include "reference/emulate.hpp"
#include "reference/exp2.hpp"
#include "reference/formats.hpp"
#include "reference/quantize.hpp"

/// The emulation written down once more, one query row at a time, in plain loops and in the order of docs/numerics.md.
/// It shares the quantised operands with the fast one, and nothing of its loop.
namespace sage2::testing {

class PlainRow {
 public:
  PlainRow(const HeadProblem& problem, const Variant& variant, const Operands& operands, std::size_t row)
      : p_(problem), v_(variant), in_(operands), row_(row), seen_(problem.visible(row)) {}

  std::vector<float> run() {
    for (const auto& part : in_.v) {
      o_.emplace_back(part.channels.size(), 0.0F);
      o64_.emplace_back(part.channels.size(), 0.0);
    }
    for (std::size_t first = 0; first < seen_; first += v_.geometry.k_tile) tile(first);
    return finish();
  }

 private:
  [[nodiscard]] bool truncates_qk() const { return v_.qk_accum == QkAccum::fp32; }

  /// Product of the codes of this row and key j.
  [[nodiscard]] float product(std::size_t j) const {
    const float* q = in_.q.codes.row(row_);
    const float* k = in_.k.codes.row(j);
    const std::size_t depth = in_.q.codes.cols;
    if (truncates_qk()) {
      const auto model = accumulator_model(v_.arch, v_.q, v_.k, false);
      return chain(model, 0, q, least_exponent(v_.q), k, least_exponent(v_.k), depth);
    }
    double sum = 0;
    for (std::size_t c = 0; c < depth; ++c) sum += static_cast<double>(q[c]) * static_cast<double>(k[c]);
    return static_cast<float>(sum);
  }

  static float chain(const AccumulatorModel& model, float c, const float* a, int least_a, const float* b, int least_b,
                     std::size_t depth) {
    const auto group = static_cast<std::size_t>(model.group);
    for (std::size_t k = 0; k < depth; k += group) {
      c = accumulate_group(model, c, {a + k, group}, least_a, {b + k, group}, least_b);
    }
    return c;
  }

  void tile(std::size_t first) {
    const std::size_t keys = v_.geometry.k_tile;
    const auto scale_log2 = static_cast<float>(static_cast<double>(p_.sm_scale) * std::numbers::log2e);
    const float q_scale = in_.q.scale[row_] * scale_log2;
    std::vector<float> s(keys);
    std::vector<float> x(keys);
    float largest = -1e30F;
    for (std::size_t n = 0; n < keys && first + n < seen_; ++n) {
      s[n] = product(first + n);
      const float f = q_scale * in_.k.scale[first + n];
      x[n] = in_.delta_s.data.empty() ? s[n] * f : std::fma(s[n], f, in_.delta_s(row_ / 128, first + n));
      largest = std::max(largest, x[n]);
    }
    const float m = std::max(m_, largest - p_offset(v_));
    const float alpha = exp2_shared(m_ - m);
    m_ = m;
    for (float& l : l_) l *= alpha;
    std::vector<float> p(keys);
    for (std::size_t n = 0; n < keys && first + n < seen_; ++n) {
      const float f = q_scale * in_.k.scale[first + n];
      const float e = exp2_shared(in_.delta_s.data.empty() ? std::fma(s[n], f, -m) : x[n] - m);
      l_[n % 8 / 2] += e;
      p[n] = v_.p == Format::int8 ? std::nearbyint(e * 127) : round_to(v_.p, e);
    }
    for (std::size_t part = 0; part < in_.v.size(); ++part) multiply(part, first, p, alpha);
  }

  void multiply(std::size_t part, std::size_t first, const std::vector<float>& p, float alpha) {
    const auto& v = in_.v[part];
    const bool outliers = part > 0;
    const bool half = !outliers && (v_.pv_accum == PvAccum::fp32_fp16 || v_.pv_accum == PvAccum::fp16);
    const bool fresh = v_.pv_accum == PvAccum::fp32_fp32 || v_.pv_accum == PvAccum::fp32_fp16;
    const bool exact = v_.pv_accum == PvAccum::exact || (is_integer(v_.p) && outliers);
    const auto model = outliers ? accumulator_model(v_.arch, Format::fp16, Format::fp16, false)
                                : accumulator_model(v_.arch, v_.p, v.format, half);
    for (std::size_t c = 0; c < v.channels.size(); ++c) {
      std::vector<float> column(p.size());
      for (std::size_t n = 0; n < p.size(); ++n) column[n] = v.codes(first + n, c);
      const float tile_scale = v.scale.rows > 1 ? v.scale(first / v_.geometry.k_tile, c) : 1.0F;
      if (exact) {
        double sum = 0;
        for (std::size_t n = 0; n < p.size(); ++n) sum += static_cast<double>(p[n]) * static_cast<double>(column[n]);
        o64_[part][c] = o64_[part][c] * static_cast<double>(alpha) + sum * static_cast<double>(tile_scale);
        continue;
      }
      float& o = o_[part][c];
      const int lp = least_exponent(v_.p);
      const int lv = least_exponent(v.format);
      if (!fresh) {
        const float scaled = o * alpha;
        o = chain(model, half ? round_fp16(scaled) : scaled, p.data(), lp, column.data(), lv, p.size());
        continue;
      }
      const std::size_t step = half ? std::min<std::size_t>(64, p.size()) : p.size();
      for (std::size_t k = 0; k < p.size(); k += step) {
        const std::size_t depth = std::min(step, p.size() - k);
        float sum = 0;
        if (is_integer(v_.p)) {
          for (std::size_t n = k; n < k + depth; ++n) sum += p[n] * column[n];
        } else {
          sum = chain(model, 0, p.data() + k, lp, column.data() + k, lv, depth);
        }
        const float a = k == 0 ? alpha : 1.0F;
        o = v.scale.rows > 1 ? std::fma(sum, tile_scale, o * a) : std::fma(o, a, sum);
      }
    }
  }

  std::vector<float> finish() {
    std::vector<float> out(p_.v.cols, 0.0F);
    if (seen_ == 0) return out;
    const float l = (l_[0] + l_[1]) + (l_[2] + l_[3]);
    const float inverse = 1.0F / (l * (v_.p == Format::int8 ? 127.0F : 1.0F));
    for (std::size_t part = 0; part < in_.v.size(); ++part) {
      const auto& v = in_.v[part];
      const bool exact = v_.pv_accum == PvAccum::exact || (is_integer(v_.p) && part > 0);
      for (std::size_t c = 0; c < v.channels.size(); ++c) {
        const float raw =
            exact ? static_cast<float>(o64_[part][c] * static_cast<double>(inverse)) : o_[part][c] * inverse;
        const float scale = v.scale.rows > 1 ? 1.0F : v.scale(0, c);
        out[v.channels[c]] = in_.v_mean.empty() ? raw * scale : std::fma(raw, scale, in_.v_mean[v.channels[c]]);
      }
    }
    return out;
  }

  const HeadProblem& p_;
  const Variant& v_;
  const Operands& in_;
  std::size_t row_;
  std::size_t seen_;
  float m_ = -1e30F;
  float l_[4] = {};
  std::vector<std::vector<float>> o_;
  std::vector<std::vector<double>> o64_;
};

}  // namespace sage2::testing
