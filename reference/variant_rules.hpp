#pragma once

#include <optional>
#include <string>

#include "reference/variant.hpp"

/// Which variants make sense.
namespace sage2 {

/// The variant with every setting that cannot matter put to its neutral value, so that equal meanings are equal values.
[[nodiscard]] Variant normalised(Variant variant);

/// Why `normalised` fixes a key in this variant, for the error message.
[[nodiscard]] std::string why_fixed(const Variant& variant, const std::string& key);

/// The reason why a combination is refused, or nothing.
[[nodiscard]] std::optional<std::string> contradiction(const Variant& variant);

/// The preset as that chip runs it: its tensor cores and the geometry of the kernel that runs there. Ampere has no FP8,
/// so P and V become FP16 with an FP32 accumulator, as in the official sm80 kernel.
[[nodiscard]] Variant on_arch(Variant variant, Arch arch);

}  // namespace sage2
