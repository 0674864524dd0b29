#include <algorithm>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "reference/variant.hpp"
#include "reference/variant_rules.hpp"

/// The one list of presets and suites that parser, help, tests, evaluation and benchmarks read.
namespace sage2 {
namespace {

Variant sage2_of(Format qk, PvAccum pv_accum) {
  Variant v;
  v.q = v.k = qk;
  v.smooth_k = true;
  v.smooth_q = qk == Format::int4;  // the 8-bit kernel leaves it out
  v.p = v.v = Format::e4m3;
  v.pv_accum = pv_accum;
  return v;
}

Variant fp16_attention() {
  Variant v;
  v.q = v.k = v.p = v.v = Format::fp16;
  v.qk_accum = QkAccum::fp32;
  v.pv_accum = PvAccum::fp32;
  return v;
}

Variant sage1() {
  Variant v;
  v.q = v.k = Format::int8;
  v.qk_gran = QkGran::per_block;
  v.smooth_k = true;
  v.p = v.v = Format::fp16;
  v.pv_accum = PvAccum::fp32_fp16;
  return v;
}

Variant sage2_4b_v1() {
  auto v = sage2_of(Format::int4, PvAccum::fp32);
  v.qk_gran = QkGran::per_warp;
  v.smooth_v = true;
  return v;
}

Variant fa3_fp8() {
  Variant v;
  v.q = v.k = v.p = v.v = Format::e4m3;
  v.qk_gran = QkGran::per_tensor;
  v.qk_accum = QkAccum::fp32;
  v.v_gran = VGran::per_tensor;
  v.pv_accum = PvAccum::fp32;
  v.arch = Arch::hopper;  // FlashAttention-3 exists nowhere else
  v.geometry = {128, 128, 16};
  return v;
}

/// INT4 without any smoothing, with the scales of the paper's first version: the base of the smoothing table.
Variant plain_int4(Transform transform = Transform::none) {
  auto v = sage2_of(Format::int4, PvAccum::fp32_fp32);
  v.smooth_q = v.smooth_k = false;
  v.qk_gran = QkGran::per_warp;
  v.transform = transform;
  return v;
}

Variant smoothed_int4(bool smooth_q, bool smooth_k) {
  auto v = plain_int4();
  v.smooth_q = smooth_q;
  v.smooth_k = smooth_k;
  return v;
}

/// sage2-4b with one change.
template <class Change>
Variant changed(const Change& change) {
  auto v = sage2_of(Format::int4, PvAccum::fp32_fp32);
  change(v);
  return v;
}

Suite granularity_suite() {
  Suite s{"granularity", "Scale groups of Q and K, INT4 with smooth Q and K, FP8 P and V", {}};
  const auto row = [&](const char* label, QkGran gran) {
    s.rows.push_back({label, changed([&](Variant& v) { v.qk_gran = gran; })});
  };
  row("per-token", QkGran::per_token);
  row("per-thread", QkGran::per_thread);
  row("per-warp", QkGran::per_warp);
  row("per-block", QkGran::per_block);
  row("per-tensor", QkGran::per_tensor);
  return s;
}

Suite pv_format_suite() {
  Suite s{"pv-format", "Formats of P and V, INT4 with smooth Q and K", {}};
  const auto row = [&](const char* label, Format f) {
    s.rows.push_back({label, changed([&](Variant& v) { v.p = v.v = f; })});
  };
  row("INT8", Format::int8);
  row("E5M2", Format::e5m2);
  row("E4M3", Format::e4m3);
  row("FP16", Format::fp16);
  return s;
}

Suite smooth_v_suite() {
  Suite s{"smooth-v", "Smoothing V and its alternatives (INT4 with smooth Q and K)", {}};
  const auto row = [&](const char* label, PvAccum accum, bool smooth_v, VOutliers outliers = VOutliers::none) {
    s.rows.push_back({label, changed([&](Variant& v) {
                        v.pv_accum = accum;
                        v.smooth_v = smooth_v;
                        v.v_outliers = outliers;
                      })});
  };
  row("none, fp32", PvAccum::fp32, false);
  row("smooth V, fp32", PvAccum::fp32, true);
  row("clip, fp32", PvAccum::fp32, false, VOutliers::clip);
  row("median, fp32", PvAccum::fp32, false, VOutliers::median);
  row("split, fp32", PvAccum::fp32, false, VOutliers::split);
  row("none, fp32+fp32", PvAccum::fp32_fp32, false);
  row("smooth V, fp32+fp32", PvAccum::fp32_fp32, true);
  return s;
}

Suite accumulators_suite() {
  Suite s{"accumulators", "Accumulators of PV, INT4 with smooth Q and K, FP8 P and V", {}};
  const auto row = [&](const char* label, Arch arch, PvAccum accum) {
    s.rows.push_back({label, changed([&](Variant& v) {
                        v.arch = arch;
                        v.pv_accum = accum;
                      })});
  };
  row("exact", Arch::ada, PvAccum::exact);
  row("Ada fp32", Arch::ada, PvAccum::fp32);
  row("Ada fp32+fp32", Arch::ada, PvAccum::fp32_fp32);
  row("Ada fp32+fp16", Arch::ada, PvAccum::fp32_fp16);
  row("Hopper fp32", Arch::hopper, PvAccum::fp32);
  row("Hopper fp32+fp32", Arch::hopper, PvAccum::fp32_fp32);
  row("Blackwell fp32", Arch::blackwell, PvAccum::fp32);
  return s;
}

}  // namespace

const std::vector<Preset>& presets() {
  static const std::vector<Preset> all{
      {"exact", "no quantisation: FP32 softmax, exact sums", Variant{}},
      {"fp16", "what FlashAttention-2 computes", fp16_attention()},
      {"sage1", "SageAttention: INT8 QK per block, FP16 PV", sage1()},
      {"sage2-8b", "SageAttention2, INT8 QK per thread, FP8 PV", sage2_of(Format::int8, PvAccum::fp32_fp32)},
      {"sage2-4b", "SageAttention2, INT4 QK per thread, FP8 PV", sage2_of(Format::int4, PvAccum::fp32_fp32)},
      {"sage2-4b-v1", "its first version: per warp, smooth V", sage2_4b_v1()},
      {"sage2pp-8b", "SageAttention2++: FP16 accumulator in PV", sage2_of(Format::int8, PvAccum::fp32_fp16)},
      {"sage2pp-4b", "SageAttention2++ with INT4 QK", sage2_of(Format::int4, PvAccum::fp32_fp16)},
      {"fa3-fp8", "FlashAttention-3 in FP8", fa3_fp8()},
      {"int4", "INT4 QK without smoothing, FP8 PV", plain_int4()},
      {"int4-hadamard", "HadamardAttn", plain_int4(Transform::hadamard)},
      {"int4-smoothattn", "SmoothAttn", plain_int4(Transform::smoothattn)},
  };
  return all;
}

Suite stages_suite(const Variant& base) {
  Variant none = base;
  none.q = none.k = none.p = none.v = Format::exact;
  none.qk_accum = QkAccum::exact;
  none.pv_accum = PvAccum::exact;
  // A stage takes its settings from one variant and gives them to another.
  struct Stage {
    const char* name;
    void (*copy)(Variant& to, const Variant& from);
  };
  const Stage stages[] = {
      {"q", [](Variant& to, const Variant& from) { to.q = from.q; }},
      {"k", [](Variant& to, const Variant& from) { to.k = from.k; }},
      {"p", [](Variant& to, const Variant& from) { to.p = from.p; }},
      {"v", [](Variant& to, const Variant& from) { to.v = from.v; }},
      {"accum",
       [](Variant& to, const Variant& from) {
         to.pv_accum = from.pv_accum;
         to.qk_accum = from.qk_accum;
       }},
  };
  Suite s{"stages", fmt::format("Where the error of {} comes from", canonical(base)), {{"all", base}}};
  const auto row = [&](const char* how, const Stage& stage, Variant v) {
    v = normalised(v);
    if (const auto why = contradiction(v)) throw UsageError(fmt::format("stages of {}: {}", canonical(base), *why));
    s.rows.push_back({fmt::format("{} {}", how, stage.name), v});
  };
  for (const auto& stage : stages) {
    Variant v = none;
    stage.copy(v, base);
    row("only", stage, v);
  }
  for (const auto& stage : stages) {
    Variant v = base;
    stage.copy(v, none);
    row("without", stage, v);
  }
  return s;
}

const std::vector<Suite>& suites() {
  static const std::vector<Suite> all{
      {"smoothing",
       "Smoothing of Q and K, INT4 per warp, FP8 P and V",
       {{"none", plain_int4()},
        {"Hadamard", plain_int4(Transform::hadamard)},
        {"SmoothAttn", plain_int4(Transform::smoothattn)},
        {"smooth K", smoothed_int4(false, true)},
        {"smooth Q", smoothed_int4(true, false)},
        {"smooth Q+K", smoothed_int4(true, true)}}},
      granularity_suite(),
      pv_format_suite(),
      smooth_v_suite(),
      accumulators_suite(),
      stages_suite(sage2_of(Format::int4, PvAccum::fp32_fp32)),
      [] {
        Suite s{"presets", "Published kernels and baselines", {}};
        for (const auto& p : presets()) s.rows.push_back({p.name, p.variant});
        return s;
      }(),
  };
  return all;
}

std::vector<Variant> verification_variants() {
  std::vector<Variant> all;
  const auto add = [&](Variant v) {
    v = normalised(v);
    if (!contradiction(v) && std::find(all.begin(), all.end(), v) == all.end()) all.push_back(v);
  };
  for (const auto arch : {Arch::hopper, Arch::ada, Arch::ampere}) {
    for (const auto& preset : presets()) {
      const auto home = on_arch(preset.variant, arch);
      add(home);
      auto v = home;
      v.smooth_v = !v.smooth_v;
      add(v);
      v = home;
      v.smooth_q = !v.smooth_q;
      add(v);
      v = home;
      v.qk_gran = QkGran::per_warp;
      add(v);
    }
  }
  return all;
}

std::vector<Suite> find_suites(std::string_view name) {
  if (name == "all") return suites();
  // "stages:VARIANT" takes another variant apart.
  if (name.substr(0, 7) == "stages:") return {stages_suite(parse_variant(name.substr(7)))};
  for (const auto& s : suites()) {
    if (s.name == name) return {s};
  }
  std::vector<std::string> names;
  for (const auto& s : suites()) names.push_back(s.name);
  throw UsageError(fmt::format("no suite '{}' (there are {}, stages:VARIANT, all)", name, fmt::join(names, ", ")));
}

}  // namespace sage2
