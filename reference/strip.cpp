#include "reference/strip.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "reference/emulate.hpp"
#include "reference/formats.hpp"
#include "reference/strip_softmax.hpp"

namespace sage2 {
namespace {

AlignedVector<double> widened(const Matrix& m) {
  return {m.data.begin(), m.data.end()};
}

}  // namespace

float p_offset(const Variant& v) {
  switch (v.p) {
    case Format::e4m3:
      return 8.807F;  // log2(448) = 8.80735
    case Format::e5m2:
      return 15.807F;  // log2(57344) = 15.80735
    case Format::exact:
      return is_fp8(v.v) ? 8.807F : 0.0F;
    default:
      return 0.0F;
  }
}

AttentionPlan::AttentionPlan(const HeadProblem& head, const Variant& what, const Operands& in)
    : problem(head),
      variant(what),
      operands(in),
      scale_log2(static_cast<float>(static_cast<double>(head.sm_scale) * std::numbers::log2e)),
      p_offset(sage2::p_offset(what)),
      qk_how(qk_product(what).how),
      qk_model(qk_product(what).model) {
  if (qk_how == Summation::fp64) k64 = widened(in.k.codes);
  if (qk_how == Summation::narrow) {
    k_exponents.resize(in.k.codes.data.size());
    operand_exponents(in.k.codes.data.data(), k_exponents.size(), least_exponent(what.k), k_exponents.data());
  }
  for (const auto& part : in.v) {
    PvPlan p;
    p.operand = &part;
    const auto rule = pv_product(what, part.format, &part != in.v.data());
    p.how = rule.how;
    p.model = rule.model;
    if (p.how == Summation::fp64) p.codes64 = widened(part.codes);
    if (p.how == Summation::narrow) {
      p.exponents.resize(part.codes.data.size());
      operand_exponents(part.codes.data.data(), p.exponents.size(), least_exponent(part.format), p.exponents.data());
    }
    pv.push_back(std::move(p));
  }
}

Strip::Strip(const AttentionPlan& plan)
    : plan_(plan), q_scale_(kStrip), m_(kStrip), alpha_(kStrip), l_(4 * kStrip), visible_(kStrip), delta_rows_(kStrip) {
  const std::size_t depth = plan.operands.q.codes.cols;
  const std::size_t tile = plan.variant.geometry.k_tile;
  q_.resize(depth * kStrip);
  s_.resize(tile * kStrip);
  p_.resize(tile * kStrip);
  if (plan.qk_how == Summation::narrow) q_exponents_.resize(depth * kStrip);
  if (plan.qk_how == Summation::fp64) {
    q64_.resize(depth * kStrip);
    s64_.resize(tile * kStrip);
  }
  if (!plan.operands.delta_s.data.empty()) delta_.resize(tile * kStrip);
  std::size_t widest = 0;
  for (const auto& part : plan.pv) {
    const std::size_t size = part.operand->channels.size() * kStrip;
    widest = std::max(widest, size);
    o_.emplace_back(part.how == Summation::fp64 ? 0 : size);
    o64_.emplace_back(part.how == Summation::fp64 ? size : 0);
    if (part.how == Summation::narrow) p_exponents_.resize(tile * kStrip);
    if (part.how == Summation::fp64) p64_.resize(tile * kStrip);
  }
  tile_.resize(widest);
}

void Strip::load_queries(std::span<const std::uint32_t> rows) {
  const auto& q = plan_.operands.q;
  const std::size_t depth = q.codes.cols;
  last_visible_ = 0;
  for (std::size_t r = 0; r < kStrip; ++r) {
    // Lanes without a row compute the last one again and see no key.
    const std::size_t row = rows[std::min(r, rows.size() - 1)];
    const std::size_t seen = r < rows.size() ? plan_.problem.visible(row) : 0;
    visible_[r] = static_cast<std::int32_t>(seen);
    last_visible_ = std::max(last_visible_, seen);
    if (!delta_.empty()) delta_rows_[r] = plan_.operands.delta_s.row(row / kSmoothQBlock);
    // One factor a row carries the scale of Q and the softmax scale; the scale of K joins it key by key.
    q_scale_[r] = q.scale[row] * plan_.scale_log2;
    const float* codes = q.codes.row(row);
    for (std::size_t c = 0; c < depth; ++c) q_[c * kStrip + r] = codes[c];
  }
  if (plan_.qk_how == Summation::narrow) {
    operand_exponents(q_.data(), q_.size(), least_exponent(plan_.variant.q), q_exponents_.data());
  }
  if (plan_.qk_how == Summation::fp64) std::copy(q_.begin(), q_.end(), q64_.begin());
}

/// S = Q K^T of the codes, into s_.
void Strip::scores(std::size_t first_key, std::size_t keys) {
  const auto& k = plan_.operands.k.codes;
  const std::size_t depth = k.cols;
  const PanelView<float> b{k.row(first_key), 1, depth};
  switch (plan_.qk_how) {
    case Summation::integer:
      multiply_exact_int(depth, keys, q_.data(), b, s_.data());
      break;
    case Summation::fp64:
      std::fill_n(s64_.begin(), keys * kStrip, 0.0);
      multiply_fp64(depth, keys, q64_.data(), {plan_.k64.data() + first_key * depth, 1, depth}, s64_.data());
      for (std::size_t i = 0; i < keys * kStrip; ++i) s_[i] = static_cast<float>(s64_[i]);
      break;
    case Summation::narrow:
      std::fill_n(s_.begin(), keys * kStrip, 0.0F);
      accumulate_narrow(plan_.qk_model, depth, keys, q_.data(), q_exponents_.data(), b,
                        {plan_.k_exponents.data() + first_key * depth, 1, depth}, s_.data());
      break;
    case Summation::wide:
      std::fill_n(s_.begin(), keys * kStrip, 0.0F);
      accumulate_wide(plan_.qk_model, depth, keys, q_.data(), b, s_.data());
      break;
  }
}

/// From products of codes to P before rounding: new running maximum, rescaling factor, exponentials, denominator.
void Strip::softmax(std::size_t first_key, std::size_t keys) {
  const TileRows rows{q_scale_.data(), visible_.data(), m_.data(), alpha_.data(), l_.data()};
  const float* const k_scale = plan_.operands.k.scale.data() + first_key;
  if (delta_.empty()) return softmax_tile(first_key, keys, k_scale, plan_.p_offset, s_.data(), rows, p_.data());
  for (std::size_t n = 0; n < keys; ++n) {
    for (std::size_t r = 0; r < kStrip; ++r) delta_[n * kStrip + r] = delta_rows_[r][first_key + n];
  }
  softmax_tile_smooth_q(first_key, keys, k_scale, plan_.p_offset, s_.data(), delta_.data(), rows, p_.data());
}

/// O = alpha O + P V for one part of V.
void Strip::multiply_v(std::size_t part, std::size_t first_key, std::size_t keys) {
  const auto& plan = plan_.pv[part];
  const auto& codes = plan.operand->codes;
  const std::size_t channels = codes.cols;
  const bool per_tile_scale = plan.operand->scale.rows > 1;
  const float* const scale =
      per_tile_scale ? plan.operand->scale.row(first_key / plan_.variant.geometry.k_tile) : nullptr;
  if (plan.how == Summation::fp64) {
    double* const o = o64_[part].data();
    for (std::size_t c = 0; c < channels; ++c) {
      for (std::size_t r = 0; r < kStrip; ++r) {
        // With a scale per tile, O is kept in units of this tile's scale while it is added to.
        o[c * kStrip + r] *= static_cast<double>(alpha_[r]) / (scale != nullptr ? static_cast<double>(scale[c]) : 1.0);
      }
    }
    multiply_fp64(keys, channels, p64_.data(), {plan.codes64.data() + first_key * channels, channels, 1}, o);
    if (scale != nullptr) {
      for (std::size_t c = 0; c < channels; ++c) {
        for (std::size_t r = 0; r < kStrip; ++r) o[c * kStrip + r] *= static_cast<double>(scale[c]);
      }
    }
    return;
  }
  float* const o = o_[part].data();
  const auto accumulate = [&](std::size_t k0, std::size_t depth, float* acc) {
    const PanelView<float> b{codes.row(first_key + k0), channels, 1};
    const float* const a = p_.data() + k0 * kStrip;
    if (plan.how == Summation::integer) {
      multiply_exact_int(depth, channels, a, b, acc);
    } else if (plan.how == Summation::narrow) {
      accumulate_narrow(plan.model, depth, channels, a, p_exponents_.data() + k0 * kStrip, b,
                        {plan.exponents.data() + (first_key + k0) * channels, channels, 1}, acc);
    } else {
      accumulate_wide(plan.model, depth, channels, a, b, acc);
    }
  };
  if (!fresh_per_tile(plan_.variant.pv_accum)) {
    // One accumulator over all keys, rescaled in its own format.
    for (std::size_t c = 0; c < channels; ++c) {
      for (std::size_t r = 0; r < kStrip; ++r) {
        const float x = o[c * kStrip + r] * alpha_[r];
        o[c * kStrip + r] = plan.model.half ? round_fp16(x) : x;
      }
    }
    accumulate(0, keys, o);
    return;
  }
  const std::size_t step = plan.model.half ? std::min(kHalfKeys, keys) : keys;
  for (std::size_t k0 = 0; k0 < keys; k0 += step) {
    std::fill_n(tile_.begin(), channels * kStrip, 0.0F);
    accumulate(k0, std::min(step, keys - k0), tile_.data());
    for (std::size_t c = 0; c < channels; ++c) {
      float* const oc = o + c * kStrip;
      const float* const tc = tile_.data() + c * kStrip;
      for (std::size_t r = 0; r < kStrip; ++r) {
        // Rescaling and promotion to FP32 are one instruction.
        const float alpha = k0 == 0 ? alpha_[r] : 1.0F;
        oc[r] = scale != nullptr ? std::fma(tc[r], scale[c], oc[r] * alpha) : std::fma(oc[r], alpha, tc[r]);
      }
    }
  }
}

/// O / l, scales and mean of V, and from lanes back to rows.
void Strip::finish(std::size_t rows, float* o) const {
  const std::size_t head_dim = plan_.problem.v.cols;
  float inverse[kStrip];
  for (std::size_t r = 0; r < kStrip; ++r) {
    const float l = (l_[r] + l_[kStrip + r]) + (l_[2 * kStrip + r] + l_[3 * kStrip + r]);
    const float unit = plan_.variant.p == Format::int8 ? 127.0F : 1.0F;
    inverse[r] = l == 0 ? 0.0F : 1.0F / (l * unit);
  }
  for (std::size_t i = 0; i < plan_.pv.size(); ++i) {
    const auto& part = *plan_.pv[i].operand;
    const bool per_tile_scale = part.scale.rows > 1;
    const bool exact = plan_.pv[i].how == Summation::fp64;
    for (std::size_t c = 0; c < part.channels.size(); ++c) {
      const std::uint32_t channel = part.channels[c];
      const float scale = per_tile_scale ? 1.0F : part.scale(0, c);
      for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t at = c * kStrip + r;
        const float raw =
            exact ? static_cast<float>(o64_[i][at] * static_cast<double>(inverse[r])) : o_[i][at] * inverse[r];
        const bool seen = visible_[r] > 0;
        o[r * head_dim + channel] =
            plan_.operands.v_mean.empty() || !seen ? raw * scale : std::fma(raw, scale, plan_.operands.v_mean[channel]);
      }
    }
  }
}

void Strip::run(std::span<const std::uint32_t> rows, float* o) {
  counts_ = {};
  load_queries(rows);
  std::fill(m_.begin(), m_.end(), kNoScore);
  std::fill(l_.begin(), l_.end(), 0.0F);
  for (auto& part : o_) std::fill(part.begin(), part.end(), 0.0F);
  for (auto& part : o64_) std::fill(part.begin(), part.end(), 0.0);
  for (std::size_t r = 0; r < rows.size(); ++r) counts_.total += static_cast<std::uint64_t>(visible_[r]);
  const std::size_t tile = plan_.variant.geometry.k_tile;
  for (std::size_t first = 0; first < last_visible_; first += tile) {
    // Operands are padded to whole tiles; keys beyond the end are masked like any other.
    scores(first, tile);
    softmax(first, tile);
    const auto lost = round_tile(plan_.variant.p, first, tile, visible_.data(), p_.data());
    counts_.underflow += lost.underflow;
    counts_.saturated += lost.saturated;
    if (!p_exponents_.empty()) {
      operand_exponents(p_.data(), p_.size(), least_exponent(plan_.variant.p), p_exponents_.data());
    }
    if (!p64_.empty()) std::copy(p_.begin(), p_.end(), p64_.begin());
    for (std::size_t part = 0; part < plan_.pv.size(); ++part) multiply_v(part, first, tile);
  }
  finish(rows.size(), o);
}

}  // namespace sage2
