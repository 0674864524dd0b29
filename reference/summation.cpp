#include "reference/summation.hpp"

namespace sage2 {
namespace {

/// FP8 and FP16 fit the narrow kernel; an exact or BF16 operand does not.
Summation tensor_core(Format a, Format b) {
  const auto narrow = [](Format f) { return is_fp8(f) || f == Format::fp16; };
  return narrow(a) && narrow(b) ? Summation::narrow : Summation::wide;
}

bool half_accumulator(PvAccum a) {
  return a == PvAccum::fp32_fp16 || a == PvAccum::fp16;
}

}  // namespace

ProductRule qk_product(const Variant& v) {
  if (is_integer(v.q) && is_integer(v.k)) return {Summation::integer};
  if (v.qk_accum == QkAccum::exact) return {Summation::fp64};
  return {tensor_core(v.q, v.k), accumulator_model(v.arch, v.q, v.k, false)};
}

ProductRule pv_product(const Variant& v, Format format, bool second) {
  if (v.pv_accum == PvAccum::exact) return {Summation::fp64};
  if (is_integer(v.p) && is_integer(format)) return {Summation::integer};
  // Outlier channels in FP16 beside INT8 ones: their products with the codes of P are summed exactly.
  if (is_integer(v.p)) return {Summation::fp64};
  // Outlier channels ride on FP16 instructions, into which every FP8 value of P fits, with an FP32 accumulator.
  const auto model = second ? accumulator_model(v.arch, Format::fp16, Format::fp16, false)
                            : accumulator_model(v.arch, v.p, format, half_accumulator(v.pv_accum));
  return {tensor_core(v.p, format), model};
}

bool fresh_per_tile(PvAccum a) {
  return a == PvAccum::fp32_fp32 || a == PvAccum::fp32_fp16;
}

}  // namespace sage2
