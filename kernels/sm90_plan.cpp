#include "kernels/sm90_plan.hpp"

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2::cuda::sm90 {
namespace {

/// The first setting that neither preparation nor kernels have, or null.
const char* in_the_way(const Variant& v) {
  if (v.arch != Arch::hopper) return "arch: it means the tensor cores of another chip; write @hopper";
  if (v.q != v.k || (v.q != Format::int8 && v.q != Format::int4)) return "qk: int8 and int4 are there";
  if (v.qk_gran == QkGran::per_tensor || v.qk_gran == QkGran::per_token) {
    return "qk_gran: per_block, per_warp and per_thread are there";
  }
  if (v.transform != Transform::none) return "transform: none is there";
  if (v.p != Format::e4m3 || v.v != Format::e4m3) return "p, v: e4m3 is there";
  if (v.v_gran != VGran::per_channel) return "v_gran: per_channel is there";
  if (v.v_outliers != VOutliers::none) return "v_outliers: none is there";
  if (v.pv_accum != PvAccum::fp32 && v.pv_accum != PvAccum::fp32_fp32) {
    return "pv_accum: fp32 and fp32+fp32 are there";
  }
  if (v.geometry != Geometry{64, 128, 16}) return "geometry: 64x128w16 is there";
  if (v.o != OutFormat::exact) return "o: the tensor that the output goes to decides it";
  return nullptr;
}

}  // namespace

Plan plan(const Variant& variant, bool accurate) {
  if (const char* why = in_the_way(variant)) {
    throw UsageError(fmt::format("variant '{}': no fused kernel has this ({})", canonical(variant), why));
  }
  Plan plan;
  auto& kernel = plan.kernel;
  kernel.smooth_q = variant.smooth_q;
  kernel.pv_accum = variant.pv_accum;
  // INT4 codes are exact as E4M3 numbers too, whose products need no conversion to FP32.
  kernel.e4m3_codes = variant.q == Format::int4;
  kernel.accurate = accurate || !compiled(kernel);
  if (!compiled(kernel)) kernel.e4m3_codes = false;
  plan.prepare = {.qk = variant.q,
                  .gran = variant.qk_gran,
                  .smooth_q = variant.smooth_q,
                  .smooth_k = variant.smooth_k,
                  .smooth_v = variant.smooth_v,
                  .e4m3_codes = kernel.e4m3_codes};
  return plan;
}

Variant parse_for_hopper(std::string_view text) {
  const auto colon = text.find(':');
  const auto head = text.substr(0, colon);
  if (head.find('@') != std::string_view::npos) return parse_variant(text);
  const auto rest = colon == std::string_view::npos ? std::string_view{} : text.substr(colon);
  return parse_variant(fmt::format("{}@hopper{}", head, rest));
}

}  // namespace sage2::cuda::sm90
