#pragma once

#include <set>
#include <string>
#include <vector>

#include "reference/variant.hpp"

namespace sage2::testing::device_calls {

/// Every variant of every suite, every preset on every architecture that has it, and odd ones.
inline std::vector<Variant> all_variants() {
  std::set<Variant> all;
  for (const auto& s : suites()) {
    for (const auto& row : s.rows) all.insert(row.variant);
  }
  for (const auto& p : presets()) {
    for (const char* arch : {"", "@ampere", "@ada", "@hopper", "@blackwell"}) {
      // fa3-fp8 has no meaning on Ampere.
      if (p.name == "fa3-fp8" && std::string(arch) == "@ampere") continue;
      all.insert(parse_variant(p.name + arch));
    }
  }
  for (const char* text : {
           "sage2-8b:qk=int2",
           "sage2-8b:qk=int3,qk_gran=per_token",
           "sage2-8b:qk=int5,qk_gran=per_tensor",
           "sage2-8b:qk=int6,transform=hadamard",
           "sage2-8b:qk=int7,transform=smoothattn,smooth_q=on",
           "sage2-8b:q=int8,k=int4",
           "sage2-8b:q=int4,k=exact",
           "sage2-8b:q=exact,k=e4m3",
           "sage2-8b:qk=e4m3",
           "sage2-8b:qk=e4m3,qk_accum=fp32",
           "sage2-8b@hopper:qk=e4m3,qk_accum=fp32,qk_gran=per_block",
           "sage2-8b@blackwell:qk=e4m3,qk_accum=fp32,qk_gran=per_warp",
           "sage2-8b:qk=e4m3,qk_accum=fp32,smooth_q=on,transform=hadamard",
           "sage2-8b:qk=fp16,qk_accum=fp32",
           "sage2-8b:qk=bf16,qk_accum=fp32,smooth_q=on",
           "sage2-8b:q=fp16,k=exact,qk_accum=fp32",
           "sage2-8b:qk=exact,qk_accum=fp32,smooth_k=off",
           "fp16:qk=bf16,p=bf16,v=bf16",
           "fp16@hopper:qk=bf16,p=bf16,v=bf16",
           "fp16@ampere:qk_accum=exact,pv_accum=fp16",
           "fp16:pv_accum=fp32+fp32",
           "fp16:smooth_v=on,pv_accum=fp32+fp16",
           "sage2-4b:p=e5m2,v=e4m3,pv_accum=fp32",
           "sage2-4b:p=e5m2,v=e5m2",
           "sage2-4b@hopper:p=e4m3,v=e5m2,pv_accum=fp32",
           "sage2-4b:v=e5m2,pv_accum=fp32+fp16",
           "sage2-8b:p=bf16,v=bf16,pv_accum=fp32",
           "sage2-8b:p=exact,v=fp16,pv_accum=fp16",
           "sage2-8b:p=fp16,v=e4m3,pv_accum=exact",
           "sage2-8b:p=int8,v=e4m3,pv_accum=exact",
           "sage2-8b:p=int8,v=int8",
           "sage2-8b:p=int8,v=int8,v_gran=per_block",
           "sage2-8b:p=int8,v=int8,v_outliers=split",
           "sage2-8b:p=int8,v=int8,pv_accum=exact,v_outliers=median",
           "sage2-8b:v_gran=per_block",
           "sage2-8b:v_gran=per_block,pv_accum=fp32+fp16",
           "sage2-8b:v_gran=per_block,pv_accum=exact,smooth_v=on",
           "sage2-8b:v_gran=per_tensor,v_outliers=split",
           "sage2-8b:p=exact,v_outliers=split",
           "sage2pp-8b:v_outliers=split,smooth_v=on",
           "sage2-4b:v_outliers=split,pv_accum=exact",
           "sage2-4b:smooth_v=on,v_outliers=clip",
           "sage2-4b:smooth_v=on,v_outliers=median,v_gran=per_tensor",
           "sage1:pv_accum=fp16",
           "sage1@hopper:pv_accum=fp16",
           "sage2pp-8b:pv_accum=fp16",
           "sage2pp-8b@blackwell:pv_accum=fp16",
           "sage2pp-4b:p=exact",
           "fa3-fp8:p=exact",
           "fa3-fp8:pv_accum=fp32+fp32",
           "sage2-8b:geometry=64x32w16",
           "sage2-8b:geometry=16x96w16,v_gran=per_block",
           "sage2-4b:geometry=256x256w64,pv_accum=fp32",
           "sage2pp-4b:geometry=48x160w16,qk_gran=per_block",
           "fp16:geometry=128x256w32",
           "sage2-4b:geometry=128x224w128,qk_gran=per_warp,pv_accum=exact",
           "sage2pp-8b:geometry=64x32w64,v_gran=per_block",
           "sage2-8b:o=fp16",
           "sage2-4b-v1:o=bf16",
       }) {
    all.insert(parse_variant(text));
  }
  return {all.begin(), all.end()};
}

}  // namespace sage2::testing::device_calls
