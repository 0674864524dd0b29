#include "datasets/convert.hpp"

#include <bit>

namespace sage2 {

static_assert(std::endian::native == std::endian::little, "captures are read on little-endian machines");

namespace {

constexpr std::uint32_t kSign = 0x80000000U;
constexpr std::uint32_t kInfinity32 = 0x7f800000U;

/// FP16 has exponent bias 15, FP32 127: the exponents of normal numbers differ by 112.
constexpr std::uint32_t kRebias = 112U << 23;

float widen_half(std::uint16_t code) {
  const std::uint32_t sign = (code & 0x8000U) << 16;
  const std::uint32_t bits = (code & 0x7fffU) << 13;
  const std::uint32_t exponent = bits & (31U << 23);
  const std::uint32_t normal = bits + kRebias;
  // A subnormal is a fraction without the leading one: put it behind a one at 2^-14, then take that one away (exact).
  const float one = std::bit_cast<float>(113U << 23);
  const auto subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(bits + (113U << 23)) - one);
  std::uint32_t magnitude = exponent == 0 ? subnormal : normal;
  magnitude = exponent == (31U << 23) ? normal + kRebias : magnitude;  // infinity, NaN
  return std::bit_cast<float>(sign | magnitude);
}

std::uint16_t narrow_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & ~kSign;
  // Half an ulp less one, plus the last bit that stays: rounds to nearest even, and carries into the exponent.
  const std::uint32_t normal = (magnitude - kRebias + 0xfffU + ((magnitude >> 13) & 1U)) >> 13;
  // Below 2^-14 the ulp is 2^-24, which is also the ulp of numbers from 0.5 to 1: the addition rounds.
  const std::uint32_t subnormal =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - std::bit_cast<std::uint32_t>(0.5F);
  const std::uint32_t nan = 0x7e00U | ((magnitude >> 13) & 0x3ffU);
  std::uint32_t code = magnitude < (113U << 23) ? subnormal : normal;
  code = magnitude >= 0x477ff000U ? 0x7c00U : code;  // 65520 and above
  code = magnitude > kInfinity32 ? nan : code;
  return static_cast<std::uint16_t>(code | ((bits & kSign) >> 16));
}

std::uint16_t narrow_brain(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40U;
  return static_cast<std::uint16_t>((bits & ~kSign) > kInfinity32 ? nan : rounded);
}

/// Infinity and NaN are what has all bits of the exponent. One pass counts them, which is all that sound data needs.
template <class T>
std::optional<NonFinite> find_nonfinite(std::span<const std::byte> bits, std::size_t cols, T exponent) {
  const auto* const values = reinterpret_cast<const T*>(bits.data());
  const std::size_t n = bits.size() / sizeof(T);
  NonFinite found;
  for (std::size_t i = 0; i < n; ++i) found.count += (values[i] & exponent) == exponent ? 1 : 0;
  if (found.count == 0) return std::nullopt;
  std::size_t first = 0;
  while ((values[first] & exponent) != exponent) ++first;
  found.row = first / cols;
  found.col = first % cols;
  return found;
}

}  // namespace

void widen_float16(std::span<const std::uint16_t> in, std::span<float> out) {
  const std::uint16_t* const from = in.data();
  float* const to = out.data();
  for (std::size_t i = 0; i < in.size(); ++i) to[i] = widen_half(from[i]);
}

void widen_bfloat16(std::span<const std::uint16_t> in, std::span<float> out) {
  const std::uint16_t* const from = in.data();
  float* const to = out.data();
  for (std::size_t i = 0; i < in.size(); ++i) to[i] = std::bit_cast<float>(static_cast<std::uint32_t>(from[i]) << 16);
}

void narrow_float16(std::span<const float> in, std::span<std::uint16_t> out) {
  const float* const from = in.data();
  std::uint16_t* const to = out.data();
  for (std::size_t i = 0; i < in.size(); ++i) to[i] = narrow_half(from[i]);
}

void narrow_bfloat16(std::span<const float> in, std::span<std::uint16_t> out) {
  const float* const from = in.data();
  std::uint16_t* const to = out.data();
  for (std::size_t i = 0; i < in.size(); ++i) to[i] = narrow_brain(from[i]);
}

void swap_bytes(std::span<std::uint16_t> values) {
  for (auto& x : values) x = static_cast<std::uint16_t>((x << 8) | (x >> 8));
}

void swap_bytes(std::span<std::uint32_t> values) {
  for (auto& x : values) x = (x << 24) | ((x & 0xff00U) << 8) | ((x >> 8) & 0xff00U) | (x >> 24);
}

void round_to(DType dtype, std::span<float> values) {
  if (dtype == DType::float16) {
    for (auto& x : values) x = widen_half(narrow_half(x));
  } else if (dtype == DType::bfloat16) {
    for (auto& x : values) x = std::bit_cast<float>(static_cast<std::uint32_t>(narrow_brain(x)) << 16);
  }
}

std::optional<NonFinite> first_nonfinite(DType dtype, std::span<const std::byte> bits, std::size_t cols) {
  switch (dtype) {
    case DType::float16:
      return find_nonfinite<std::uint16_t>(bits, cols, 0x7c00U);
    case DType::bfloat16:
      return find_nonfinite<std::uint16_t>(bits, cols, 0x7f80U);
    default:
      return find_nonfinite<std::uint32_t>(bits, cols, kInfinity32);
  }
}

}  // namespace sage2
