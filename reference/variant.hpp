#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "reference/host_device.hpp"

/// A variant says what is computed. It is a plain value; every engine gives it the same meaning (docs/variants.md).
namespace sage2 {

/// Number formats of Q, K, P and V. `exact` is the captured value, or FP32 where it is computed.
enum class Format : std::uint8_t { int2, int3, int4, int5, int6, int7, int8, e4m3, e5m2, fp16, bf16, exact };

enum class QkGran : std::uint8_t { per_tensor, per_block, per_warp, per_thread, per_token };
enum class Transform : std::uint8_t { none, hadamard, smoothattn };
enum class VGran : std::uint8_t { per_channel, per_tensor, per_block };
enum class VOutliers : std::uint8_t { none, clip, median, split };

/// How products of Q and K are summed: exactly, or in the tensor core's FP32 accumulator. Integers are always exact.
enum class QkAccum : std::uint8_t { exact, fp32 };
/// How products of P and V are summed. `fp32` is one accumulator over all keys; `fp32+X` starts a fresh accumulator X
/// for each key tile (64 keys for fp16) and adds it to a true FP32 register.
enum class PvAccum : std::uint8_t { exact, fp32, fp32_fp32, fp32_fp16, fp16 };
enum class Arch : std::uint8_t { ampere, ada, hopper, blackwell };
/// Format in which the output is stored. `exact` keeps the FP32 result.
enum class OutFormat : std::uint8_t { exact, fp16, bf16 };

/// Query tile x key tile, and query rows per warp: "128x64w32".
struct Geometry {
  std::uint16_t q_tile = 128;
  std::uint16_t k_tile = 64;
  std::uint16_t warp_q = 32;
  auto operator<=>(const Geometry&) const = default;
};

struct Variant {
  Format q = Format::exact;
  Format k = Format::exact;
  QkGran qk_gran = QkGran::per_thread;
  QkAccum qk_accum = QkAccum::exact;
  bool smooth_q = false;
  bool smooth_k = false;
  bool smooth_v = false;
  Transform transform = Transform::none;
  Format p = Format::exact;
  Format v = Format::exact;
  VGran v_gran = VGran::per_channel;
  VOutliers v_outliers = VOutliers::none;
  PvAccum pv_accum = PvAccum::exact;
  Arch arch = Arch::ada;
  Geometry geometry;
  OutFormat o = OutFormat::exact;
  auto operator<=>(const Variant&) const = default;
};

/// Rows of queries that share a mean in smooth Q: b_q of the paper.
inline constexpr std::size_t kSmoothQBlock = 128;

[[nodiscard]] SAGE2_HOST_DEVICE constexpr bool is_integer(Format f) {
  return f <= Format::int8;
}
[[nodiscard]] SAGE2_HOST_DEVICE constexpr bool is_fp8(Format f) {
  return f == Format::e4m3 || f == Format::e5m2;
}
/// Integers and FP8 need a scale; 16-bit floats and exact values stand for themselves.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr bool is_scaled(Format f) {
  return is_integer(f) || is_fp8(f);
}
/// Bits of an integer format.
[[nodiscard]] SAGE2_HOST_DEVICE constexpr int bits_of(Format f) {
  return static_cast<int>(f) + 2;
}

/// Reads "preset", "preset@arch" or "preset[@arch]:key=value,...". Throws UsageError, naming the text, the part that is
/// wrong and what would be right, where a name is unknown or the combination makes no sense.
[[nodiscard]] Variant parse_variant(std::string_view text);

/// Splits "A,B:key=value,key=value,C" into variants: a piece that is a mere key=value belongs to the one before it.
[[nodiscard]] std::vector<std::string> split_variants(std::string_view list);

/// The one spelling of a variant: the nearest preset (fewest differing keys, first in the list) and what differs.
/// parse_variant(canonical(v)) == v, and equal variants have equal spellings.
[[nodiscard]] std::string canonical(const Variant& variant);

/// One key of the grammar, for help and listings.
struct KeyHelp {
  std::string name;
  std::vector<std::string> values;
  std::string meaning;
};
[[nodiscard]] const std::vector<KeyHelp>& variant_keys();

struct Preset {
  std::string name;
  std::string meaning;
  Variant variant;
};
[[nodiscard]] const std::vector<Preset>& presets();

struct SuiteEntry {
  std::string label;
  Variant variant;
};
/// A set of variants that makes one published table.
struct Suite {
  std::string name;
  std::string title;
  std::vector<SuiteEntry> rows;
};
/// All suites but "all", in the order they are printed.
[[nodiscard]] const std::vector<Suite>& suites();
/// The suites meant by a name: one, or every one for "all". Throws UsageError for an unknown name.
[[nodiscard]] std::vector<Suite> find_suites(std::string_view name);

/// What a chip's own kernels are held against the emulation with: every preset as Hopper, Ada and Ampere run it, and
/// each of these with smooth V or smooth Q the other way or with scales per warp. No variant twice.
[[nodiscard]] std::vector<Variant> verification_variants();

/// The single-stage suite of any variant: everything quantised, one stage only, and all but one.
[[nodiscard]] Suite stages_suite(const Variant& base);

}  // namespace sage2
