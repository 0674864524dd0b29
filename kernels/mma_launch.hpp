#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "kernels/device_problem.hpp"
#include "kernels/emulate.hpp"
#include "kernels/quantize.hpp"
#include "reference/variant.hpp"

/// The host's side of the mma.sync kernels: what a kernel is given, and how one is chosen.
namespace sage2::cuda::mma {

struct Arguments {
  const std::uint8_t *q, *k, *v;  ///< as in MmaOperands
  std::int64_t q_rows, kv_rows;
  const float* q_scale;           ///< [q heads, q_len]
  const float* k_scale;           ///< [kv heads, kv_rows]
  const float* delta_s;           ///< [q heads, blocks of 128 rows, kv_rows], or null
  const float *v_scale, *v_mean;  ///< [kv heads, channels]; no mean: null
  float* o;                       ///< [q heads, q_len, channels]
  LoopCounts* counts;             ///< [q heads], or null
  std::int64_t q_len, kv_len;
  std::int64_t q_heads_per_kv;  ///< query heads that share a key/value head
  int channels;
  bool is_causal;
  std::int64_t causal_shift;
  float scale_log2;  ///< sm_scale log2(e)
  float offset;      ///< of the running maximum
};

/// One kernel. dim: channels, to which operands are padded; bits: of the codes of Q and K.
struct Instance {
  int dim, bits;
  PvAccum accum;
  void (*launch)(const Arguments& in, std::int64_t q_heads, cudaStream_t stream);
};
/// Kernels with P and V in FP16, and in E4M3.
[[nodiscard]] std::span<const Instance> fp16_instances_d64();
[[nodiscard]] std::span<const Instance> fp16_instances_d128();
[[nodiscard]] std::span<const Instance> e4m3_instances_d64();
[[nodiscard]] std::span<const Instance> e4m3_instances_d128();

/// Whether a kernel with this format of P and V can compute a variant.
[[nodiscard]] bool supports(const Variant& variant, std::int64_t head_dim, Format v);

/// Packs the operands and launches the first instance that fits. Throws std::logic_error where none does.
void attend(std::span<const Instance> instances, const DeviceProblem& problem, const Variant& variant,
            const DeviceOperands& operands, float* o, LoopCounts* counts, cudaStream_t stream);

}  // namespace sage2::cuda::mma
