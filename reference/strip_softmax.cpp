#include "reference/strip_softmax.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "reference/exp2.hpp"
#include "reference/formats.hpp"
#include "reference/panel.hpp"

namespace sage2 {
namespace {

struct Plain {
  static float score(float s, float f, float /*delta*/) { return s * f; }
  // One rounding less than score - m, and one instruction on the GPU.
  static float exponent(float s, float f, float /*delta*/, float m) { return std::fma(s, f, -m); }
};
struct SmoothQ {
  static float score(float s, float f, float delta) { return std::fma(s, f, delta); }
  static float exponent(float s, float f, float delta, float m) { return score(s, f, delta) - m; }
};

/// Local copies of the rows' state tell the compiler that nothing overlaps, so that every loop over r is a few vector
/// instructions.
template <class Mode>
void softmax(std::size_t first_key, std::size_t keys, const float* k_scale, float offset, const float* __restrict s,
             const float* __restrict delta, const TileRows& rows, float* __restrict p) {
  float q_scale[kStrip];
  std::int32_t visible[kStrip];
  float largest[kStrip];
  float m[kStrip];
  float l[4][kStrip];
  std::copy_n(rows.q_scale, kStrip, q_scale);
  std::copy_n(rows.visible, kStrip, visible);
  std::fill_n(largest, kStrip, kNoScore);
  for (std::size_t n = 0; n < keys; ++n) {
    const float scale = k_scale[n];
    const auto key = static_cast<std::int32_t>(first_key + n);
    for (std::size_t r = 0; r < kStrip; ++r) {
      const std::size_t i = n * kStrip + r;
      const float x = Mode::score(s[i], q_scale[r] * scale, delta[i]);
      const float seen = key < visible[r] ? x : kNoScore;
      largest[r] = seen > largest[r] ? seen : largest[r];
    }
  }
  for (std::size_t r = 0; r < kStrip; ++r) {
    const float shifted = largest[r] - offset;
    const float before = rows.m[r];
    m[r] = shifted > before ? shifted : before;
    rows.alpha[r] = exp2_shared(before - m[r]);
    rows.m[r] = m[r];
    for (std::size_t t = 0; t < 4; ++t) l[t][r] = rows.l[t * kStrip + r] * rows.alpha[r];
  }
  for (std::size_t n = 0; n < keys; ++n) {
    const float scale = k_scale[n];
    const auto key = static_cast<std::int32_t>(first_key + n);
    // A row's keys are shared by four threads of a warp, two of every eight each; each keeps its own partial sum.
    float* const partial = l[n % 8 / 2];
    for (std::size_t r = 0; r < kStrip; ++r) {
      const std::size_t i = n * kStrip + r;
      const float e = exp2_shared(Mode::exponent(s[i], q_scale[r] * scale, delta[i], m[r]));
      const float seen = key < visible[r] ? e : 0.0F;
      p[i] = seen;
      partial[r] += seen;
    }
  }
  for (std::size_t t = 0; t < 4; ++t) std::copy_n(l[t], kStrip, rows.l + t * kStrip);
}

/// Beyond `limit` a code is clamped.
template <class Round>
LostInRounding round_all(std::size_t first_key, std::size_t keys, const std::int32_t* visible_rows, float* __restrict p,
                         float limit, const Round& round) {
  std::int32_t visible[kStrip];
  std::int32_t lost[kStrip] = {};
  std::int32_t clamped[kStrip] = {};
  std::copy_n(visible_rows, kStrip, visible);
  for (std::size_t n = 0; n < keys; ++n) {
    const auto key = static_cast<std::int32_t>(first_key + n);
    float* const row = p + n * kStrip;
    // Three loops, not one: comparisons of the same value side by side turn into branches.
    for (std::size_t r = 0; r < kStrip; ++r) clamped[r] += row[r] > limit ? 1 : 0;
    for (std::size_t r = 0; r < kStrip; ++r) row[r] = round(row[r]);
    for (std::size_t r = 0; r < kStrip; ++r) lost[r] += (row[r] == 0 ? 1 : 0) & (key < visible[r] ? 1 : 0);
  }
  LostInRounding out;
  for (std::size_t r = 0; r < kStrip; ++r) {
    out.underflow += static_cast<std::uint64_t>(lost[r]);
    out.saturated += static_cast<std::uint64_t>(clamped[r]);
  }
  return out;
}

}  // namespace

void softmax_tile(std::size_t first_key, std::size_t keys, const float* k_scale, float offset, const float* s,
                  const TileRows& rows, float* p) {
  softmax<Plain>(first_key, keys, k_scale, offset, s, s, rows, p);
}

void softmax_tile_smooth_q(std::size_t first_key, std::size_t keys, const float* k_scale, float offset, const float* s,
                           const float* delta, const TileRows& rows, float* p) {
  softmax<SmoothQ>(first_key, keys, k_scale, offset, s, delta, rows, p);
}

LostInRounding round_tile(Format format, std::size_t first_key, std::size_t keys, const std::int32_t* visible,
                          float* p) {
  // The maximum is subtracted with a rounding, so P may exceed its range by a few units in the last place.
  constexpr float kSlack = 1 + 0x1p-20F;
  constexpr float kNone = std::numeric_limits<float>::max();
  const auto all = [&](float limit, const auto& round) { return round_all(first_key, keys, visible, p, limit, round); };
  switch (format) {
    case Format::e4m3:
      return all(kE4m3Max * kSlack, [](float x) { return round_e4m3(x); });
    case Format::e5m2:
      return all(kE5m2Max * kSlack, [](float x) { return round_e5m2(x); });
    case Format::fp16:
      return all(kFp16Max, [](float x) { return round_fp16(x); });
    case Format::bf16:
      return all(kNone, [](float x) { return round_bf16(x); });
    case Format::int8:
      return all(kSlack, [](float x) { return round_half_even(x * 127.0F); });
    default:
      return all(kNone, [](float x) { return x; });
  }
}

}  // namespace sage2
