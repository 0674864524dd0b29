#pragma once

#include <string_view>

#include "kernels/sm90_attention.hpp"
#include "kernels/sm90_prepare.hpp"
#include "reference/variant.hpp"

/// Variants as the fused preparation and the kernels of Hopper run them.
namespace sage2::cuda::sm90 {

struct Plan {
  PrepareOptions prepare;
  KernelChoice kernel;
};

/// What runs a variant: a fast kernel where one is compiled (INT8 without, INT4 with or without smooth Q, two-level
/// accumulation), else an accurate one, which is several times slower; `accurate` asks for that one. Throws UsageError,
/// saying which setting is in the way, where there is neither.
[[nodiscard]] Plan plan(const Variant& variant, bool accurate = false);

/// The variant that a text means where it is to run on Hopper: a preset without "@ARCH" is taken as Hopper runs it.
[[nodiscard]] Variant parse_for_hopper(std::string_view text);

}  // namespace sage2::cuda::sm90
