#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "datasets/problem.hpp"

/// Conversions between FP32 and the 16-bit formats of captures. Plain loops of integer operations and selects that
/// every compiler vectorises: the same bits on every machine, several GB/s on one core.
namespace sage2 {

/// Bytes of one stored value.
[[nodiscard]] constexpr std::size_t byte_size(DType dtype) {
  return dtype == DType::float32 ? 4 : 2;
}

/// Exact. NaN keep sign and payload. Spans are of equal length (as in all functions here).
void widen_float16(std::span<const std::uint16_t> in, std::span<float> out);
void widen_bfloat16(std::span<const std::uint16_t> in, std::span<float> out);

/// Round to nearest, ties to even; beyond the largest finite value to infinity; NaN become quiet and keep sign and
/// leading payload bits.
void narrow_float16(std::span<const float> in, std::span<std::uint16_t> out);
void narrow_bfloat16(std::span<const float> in, std::span<std::uint16_t> out);

/// Reverses the bytes of each value, for big-endian files.
void swap_bytes(std::span<std::uint16_t> values);
void swap_bytes(std::span<std::uint32_t> values);

/// Rounds each value to what `dtype` can hold.
void round_to(DType dtype, std::span<float> values);

/// `first_nonfinite` of a matrix in its stored form: bits of rows of `cols` values, in this machine's byte order.
[[nodiscard]] std::optional<NonFinite> first_nonfinite(DType dtype, std::span<const std::byte> bits, std::size_t cols);

}  // namespace sage2
