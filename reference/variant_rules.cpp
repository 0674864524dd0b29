#include "reference/variant_rules.hpp"

namespace sage2 {
namespace {

bool needs_tensor_core(const Variant& v) {
  return v.pv_accum != PvAccum::exact || v.qk_accum != QkAccum::exact;
}

bool single_level(PvAccum a) {
  return a == PvAccum::fp32 || a == PvAccum::fp16;
}

/// Tensor cores multiply FP8 by FP8 of either kind, and otherwise equal formats. An exact operand is the question "what
/// if only the other one were rounded", and goes with any float.
bool multiplies(Format a, Format b) {
  if (is_fp8(a) && is_fp8(b)) return true;
  if (is_integer(a) || is_integer(b)) return is_integer(a) && is_integer(b);
  return a == b || a == Format::exact || b == Format::exact;
}

std::optional<std::string> bad_geometry(const Geometry& g) {
  if (g.q_tile < 16 || g.q_tile > 256 || g.k_tile < 32 || g.k_tile > 256 || g.k_tile % 32 != 0) {
    return "the query tile must be 16 to 256 rows and the key tile 32 to 256 keys, a multiple of 32";
  }
  if (g.warp_q < 16 || g.warp_q % 16 != 0 || g.q_tile % g.warp_q != 0) {
    return "the rows of a warp must be a multiple of 16 that divides the query tile";
  }
  return std::nullopt;
}

std::optional<std::string> bad_qk(const Variant& v) {
  if (!multiplies(v.q, v.k) && v.q != Format::exact && v.k != Format::exact) {
    return "Q and K must both be integers, or equal floats, or one of them exact";
  }
  if (v.qk_accum == QkAccum::fp32 && v.arch == Arch::ampere && (is_fp8(v.q) || is_fp8(v.k))) {
    return "Ampere's tensor cores have no FP8 (use another arch, or qk_accum=exact)";
  }
  return std::nullopt;
}

std::optional<std::string> bad_pv(const Variant& v) {
  if (v.pv_accum == PvAccum::exact) return std::nullopt;
  if (!multiplies(v.p, v.v)) return "no tensor core multiplies these formats of P and V (pv_accum=exact does)";
  const bool fp8 = is_fp8(v.p) || is_fp8(v.v);
  if (v.arch == Arch::ampere && fp8) {
    return "Ampere's tensor cores have no FP8 (use p=fp16,v=fp16, another arch, or pv_accum=exact)";
  }
  if (is_integer(v.p) && v.pv_accum != PvAccum::fp32_fp32) {
    return "INT8 products are summed exactly within a key tile and then in FP32: pv_accum must be fp32+fp32 or exact";
  }
  const bool half = v.pv_accum == PvAccum::fp32_fp16 || v.pv_accum == PvAccum::fp16;
  if (half && (v.p == Format::bf16 || v.v == Format::bf16)) return "BF16 products have no FP16 accumulator";
  if (half && v.p == Format::e5m2) return "P in E5M2 reaches 57344, which overflows an FP16 accumulator";
  return std::nullopt;
}

}  // namespace

Variant normalised(Variant v) {
  if (!is_scaled(v.q) && !is_scaled(v.k)) v.qk_gran = QkGran::per_thread;
  const bool integers = is_integer(v.q) || is_integer(v.k);
  if (integers) v.qk_accum = QkAccum::exact;
  if (!is_scaled(v.v)) {
    v.v_gran = VGran::per_channel;
    v.v_outliers = VOutliers::none;
  }
  if (!needs_tensor_core(v)) v.arch = Arch::ada;
  return v;
}

std::string why_fixed(const Variant& v, const std::string& key) {
  if (key == "qk_gran") return "these formats of Q and K have no scales";
  if (key == "qk_accum") return "integer products are summed exactly";
  if (key == "arch") return "everything is accumulated exactly, so no tensor core takes part";
  if (key == "v_gran" || key == "v_outliers") return "this format of V has no scales";
  return v.q == v.k ? "it is the same as qk" : "it contradicts another setting";
}

std::optional<std::string> contradiction(const Variant& v) {
  if (auto why = bad_geometry(v.geometry)) return why;
  if (auto why = bad_qk(v)) return why;
  if (auto why = bad_pv(v)) return why;
  if (v.v_gran == VGran::per_block && single_level(v.pv_accum)) {
    return "scales of V per block need an accumulator that starts afresh in each key tile (pv_accum=fp32+fp32)";
  }
  if (v.v_gran == VGran::per_block && v.v_outliers == VOutliers::split) {
    return "v_outliers=split keeps whole channels apart, which needs v_gran=per_channel or per_tensor";
  }
  return std::nullopt;
}

Variant on_arch(Variant v, Arch arch) {
  // A preset that only exists on that chip is already at home there.
  if (v.arch == arch && arch == Arch::hopper) return v;
  v.arch = arch;
  v.geometry = arch == Arch::hopper ? Geometry{64, 128, 16} : Geometry{128, 64, 32};
  if (arch == Arch::ampere && (is_fp8(v.p) || is_fp8(v.v))) {
    v.p = v.v = Format::fp16;
    v.pv_accum = PvAccum::fp32;
  }
  return v;
}

}  // namespace sage2
