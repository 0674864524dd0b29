#pragma once

#include <cstddef>
#include <cstdint>

#include "reference/accumulator.hpp"
#include "reference/variant.hpp"

/// How a variant sums its two products; the one place where both engines look it up.
namespace sage2 {

enum class Summation : std::uint8_t {
  integer,  ///< exact in FP32 (or int32 on the hardware)
  fp64,     ///< as good as exact
  narrow,   ///< tensor-core accumulator, operands of FP8 or FP16
  wide      ///< tensor-core accumulator, operands of any format
};

/// The model has a meaning for `narrow` and `wide` only.
struct ProductRule {
  Summation how = Summation::fp64;
  AccumulatorModel model{};
};

[[nodiscard]] ProductRule qk_product(const Variant& variant);

/// Of a part of V in `format`; `second`: it is the outlier channels beside another part.
[[nodiscard]] ProductRule pv_product(const Variant& variant, Format format, bool second);

/// Whether PV starts a fresh accumulator in each key tile.
[[nodiscard]] bool fresh_per_tile(PvAccum accum);

/// FP16 accumulators start afresh after this many keys, whatever the key tile (SageAttention2++).
inline constexpr std::size_t kHalfKeys = 64;

}  // namespace sage2
