#pragma once

#include <cstddef>
#include <cstdint>

#include "reference/variant.hpp"

/// The softmax of one key tile for a strip of rows. Panels are [keys][kStrip]; what belongs to a row is [kStrip].
namespace sage2 {

/// Below every score; finite, so that a row without a visible key never computes infinity minus infinity.
inline constexpr float kNoScore = -1e30F;

/// State of the online softmax, one value a row.
struct TileRows {
  const float* q_scale;         ///< scale of the codes of Q times sm_scale log2(e)
  const std::int32_t* visible;  ///< number of keys the row sees
  float* m;                     ///< running maximum, less the offset
  float* alpha;                 ///< out: exp2(old m - new m)
  float* l;                     ///< denominator, four partial sums [4][kStrip]
};

/// s: products of codes, in. p: exp2(s q_scale k_scale - m), out, 0 where masked.
void softmax_tile(std::size_t first_key, std::size_t keys, const float* k_scale, float offset, const float* s,
                  const TileRows& rows, float* p);

/// The same with smooth Q: the score is s q_scale k_scale + delta.
void softmax_tile_smooth_q(std::size_t first_key, std::size_t keys, const float* k_scale, float offset, const float* s,
                           const float* delta, const TileRows& rows, float* p);

struct LostInRounding {
  std::uint64_t underflow = 0;  ///< visible entries that became zero
  std::uint64_t saturated = 0;  ///< entries clamped to the format's range
};

/// Rounds P to a format, in place. INT8 codes are round(127 p).
LostInRounding round_tile(Format format, std::size_t first_key, std::size_t keys, const std::int32_t* visible,
                          float* p);

}  // namespace sage2
