#pragma once

#include <cstddef>
#include <limits>

#include "reference/formats.hpp"
#include "reference/host_device.hpp"
#include "reference/variant.hpp"

/// Who shares a scale, and what it is: one value at a time, for the quantisers of both engines (docs/numerics.md 2).
namespace sage2 {

/// Both official epsilons.
inline constexpr float kScaleEpsilon = 1e-7F;

/// Number of the group to which row i of Q or K belongs.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr std::size_t scale_group(std::size_t i, QkGran gran, const Geometry& g,
                                                                  bool is_q) {
  const std::size_t warp = is_q ? g.warp_q : g.k_tile;  // all warps share the key tile
  switch (gran) {
    case QkGran::per_block:
      return i / (is_q ? g.q_tile : g.k_tile);
    case QkGran::per_warp:
      return i / warp;
    case QkGran::per_thread:
      // A thread of an mma holds rows t, t+8, ... of Q and columns 2t, 2t+1 of every 8 keys.
      return is_q ? i / warp * 8 + i % 8 : i / warp * 4 + i % 8 / 2;
    case QkGran::per_token:
      return i;
    default:
      return 0;
  }
}

/// Number of groups among `rows` rows: one more than the largest number that occurs.
[[nodiscard]] constexpr std::size_t scale_group_count(std::size_t rows, QkGran gran, const Geometry& g, bool is_q) {
  std::size_t count = 0;
  // The largest number is that of one of the last eight rows.
  for (std::size_t i = rows - (rows < 8 ? rows : 8); i < rows; ++i) {
    const std::size_t id = scale_group(i, gran, g, is_q);
    count = id + 1 > count ? id + 1 : count;
  }
  return count;
}

/// Whether a granularity follows the Triton quantiser (its epsilon, ties away from zero) instead of the CUDA one.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr bool follows_triton(QkGran gran) {
  return gran == QkGran::per_thread;
}

/// Scale of a group of Q or K whose largest magnitude is `amax`.
[[nodiscard]] SAGE2_HOST_DEVICE inline float qk_scale(float amax, Format format, bool triton) {
  const float top = format_top(format);
  if (triton) return amax / top + kScaleEpsilon;
  return (amax > kScaleEpsilon ? amax : kScaleEpsilon) / top;
}

/// Scale of a group of V. The official kernels divide by zero for an all-zero channel; any positive scale gives the
/// right zeros.
[[nodiscard]] SAGE2_HOST_DEVICE inline float v_scale(float amax, float range) {
  if (!(amax > 0)) return 1.0F;
  const float scale = amax / range;
  constexpr float kLeast = std::numeric_limits<float>::min();
  return scale > kLeast ? scale : kLeast;
}

/// A quotient x / scale beyond this (of FP8) or a code beyond it (of integers) counts as saturated: a quotient may
/// exceed the largest FP8 code by the rounding of the division.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr float saturation_limit(Format format) {
  const float top = format_top(format);
  return is_fp8(format) ? top * (1 + 0x1p-20F) : top;
}

}  // namespace sage2
