#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/emulate.hpp"
#include "reference/accumulator.hpp"
#include "reference/host_device.hpp"
#include "reference/variant.hpp"

/// What the loop's kernel is told: plain values, the same for all blocks.
namespace sage2::cuda {

/// The arithmetic of a product, which is what the inner loops are compiled for.
enum class Product : std::uint8_t {
  integer,  ///< integer codes, four to a word, summed in int32
  fp64,     ///< FP64 fused multiply-adds over ascending k, on tensor cores
  light,    ///< tensor-core accumulator with 13 fraction bits, in FP32
  heavy     ///< tensor-core accumulator of any width and operands of any format, in FP64
};

/// Whether operands are staged as doubles, and whether their exponents are staged too.
SAGE2_HOST_DEVICE constexpr bool in_double(Product how) {
  return how == Product::fp64 || how == Product::heavy;
}
SAGE2_HOST_DEVICE constexpr bool has_exponents(Product how) {
  return how == Product::light || how == Product::heavy;
}
/// Bytes of a staged element.
SAGE2_HOST_DEVICE constexpr int value_size(Product how) {
  return how == Product::integer ? 1 : (in_double(how) ? 8 : 4);
}

/// Columns of B that a block multiplies at a time.
inline constexpr int kPanelColumns = 64;
/// Elements from one k of B to the next. Integers take four words more than they need, so that lanes that write eight
/// words of each of four columns meet no bank twice.
SAGE2_HOST_DEVICE constexpr int b_stride(Product how) {
  return how == Product::integer ? kPanelColumns + 4 : kPanelColumns;
}

/// Exponents with which operands enter the accumulator model: of the leading bit, within least .. most; `zero` for 0.
struct ExponentRule {
  int zero, least, most;
};

struct ProductPlan {
  Product how;
  AccumulatorModel model;
  ExponentRule a, b;
  int lowest;          ///< E is at least this
  int least_c;         ///< exponent of a subnormal accumulator
  bool any_range;      ///< sums may leave FP32's normal numbers
  bool unsigned_zero;  ///< sums of nothing but zeros are +0, as integers are
};

/// One part of V.
struct PartPlan {
  ProductPlan product;
  const float* codes;              ///< [kv heads, tokens, count]
  const float* scale;              ///< [kv heads, scale_rows, count]
  const std::uint32_t* channels;   ///< [kv heads, count]
  const std::uint32_t* first_bad;  ///< [kv heads, count]: first token whose code is not finite; or null
  std::int32_t count, scale_rows;
};

/// What belongs to a row of a block, in shared memory.
template <int kRows>
struct RowState {
  float q_scale[kRows];  ///< times sm_scale log2(e)
  int visible[kRows];
  std::uint32_t row[kRows];
  std::uint32_t bad[kRows];  ///< not 0: a code of Q is not finite
  float alpha[kRows];
  float reduce[4][kRows];  ///< of the four threads that share a row
  int limit[4];            ///< of each strip of 32 rows: keys that they see
};

/// Where a block keeps what in shared memory, in bytes from its start.
struct LoopLayout {
  std::uint32_t rows, k_scale, s, q, p, b, o[2], size;
  std::uint32_t q_exponents, p_exponents, b_exponents;
  std::int32_t q_depth;   ///< channels of Q held at a time
  std::int32_t qk_chunk;  ///< channels of K staged at a time; divides q_depth or is at least the whole depth
  std::int32_t pv_chunk;  ///< keys of V staged at a time, 32 or 64
  std::int32_t slice;     ///< channels of the first part of V that a block computes
  std::int32_t slices;
};

struct LoopParams {
  const float *q_codes, *q_scale;      ///< [q heads, q_len, depth], [q heads, q_len]
  const float *k_codes, *k_scale;      ///< [kv heads, k_tokens, depth], [kv heads, k_tokens]
  const float* delta;                  ///< [q heads, delta_blocks, k_tokens] or null
  const float* v_mean;                 ///< [kv heads, head_dim] or null
  const std::uint32_t* rows;           ///< [q heads, row_count] or null for all
  const std::uint32_t* first_bad_key;  ///< [kv heads]: first key with a code that is not finite; or null
  float* o;                            ///< [q heads, row_count, head_dim]
  LoopCounts* counts;                  ///< [q heads] or null
  std::int64_t q_len, k_len, k_tokens, delta_blocks, row_count, row_blocks, ratio, causal_shift;
  std::int32_t depth, head_dim, k_tile, parts;
  bool is_causal;
  bool fresh;        ///< PV starts anew in each key tile
  bool q_overflows;  ///< codes of Q may not be finite
  Format p;
  OutFormat o_format;
  float scale_log2, p_offset, p_limit;
  float p_unit, p_back;  ///< codes of P are kept times a power of two; its inverse
  ProductPlan qk;
  PartPlan part[2];
  LoopLayout layout;
};

/// 2^-70 in front of an operand of a `light` product (see multiply in emulate_panels.cuh).
inline constexpr float kLightUnit = 0x1p-70F;

/// Query rows of a block: 64 where there is much to do, 32 for small problems and little shared memory.
void launch_loop_64(const LoopParams& params, unsigned blocks, cudaStream_t stream);
void launch_loop_32(const LoopParams& params, unsigned blocks, cudaStream_t stream);

/// first_bad [heads, cols], or [heads] over all columns: the first token whose code is not finite, else 2^32 - 1, which
/// it must be before.
void find_nonfinite(const float* codes, std::int64_t heads, std::int64_t tokens, std::int32_t cols, bool per_column,
                    std::uint32_t* first_bad, cudaStream_t stream);

}  // namespace sage2::cuda
