#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

#include "kernels/device_problem.hpp"
#include "reference/host_device.hpp"
#include "reference/variant.hpp"

/// How the Hopper kernel wants its operands: cut into tiles, each the exact image of what lies in shared memory, so
/// that one bulk copy brings a tile. Only what makes codes (the preparation, and the attention kernel's own of Q and V)
/// computes addresses inside one.
namespace sage2::cuda::sm90 {

inline constexpr int kTileRows = 64;     ///< query rows of a warpgroup
inline constexpr int kTileKeys = 128;    ///< keys of a tile
inline constexpr int kMeanRows = 128;    ///< query rows that share a mean in smooth Q
inline constexpr int kSegmentRows = 16;  ///< rows of Q that it quantises at a time, or of V that a copy brings

/// Head dims the kernel is compiled for; others are padded with zeros to the next.
SAGE2_HOST_DEVICE constexpr int padded_head_dim(int head_dim) {
  return head_dim <= 64 ? 64 : (head_dim <= 128 ? 128 : 256);
}

/// Byte of code (row, channel) in a tile of `rows` rows of Q or K, head dim `dim` (64, 128 or 256). Rows of 64 or 128
/// bytes; within 8 rows the 16-byte chunks are exchanged, so that reading a column of chunks touches every bank once
/// (the 64- and 128-byte swizzles of wgmma). Head dim 256 is two halves of 128.
SAGE2_HOST_DEVICE constexpr int qk_offset(int rows, int dim, int row, int channel) {
  if (dim == 64) return row * 64 + (((channel >> 4) ^ ((row >> 1) & 3)) << 4) + (channel & 15);
  const int half = channel >> 7;
  const int c = channel & 127;
  return half * rows * 128 + row * 128 + (((c >> 4) ^ (row & 7)) << 4) + (c & 15);
}

/// Where key `key` of a tile stands along the rows of V^T. A thread of the score tile holds columns 2t, 2t+1, 8+2t,
/// 9+2t of every 16, but the P operand wants four side by side: the keys are exchanged instead of P.
SAGE2_HOST_DEVICE constexpr int permuted_key(int key) {
  const int in16 = key & 15;
  const int t = (in16 & 7) >> 1;
  return (key & ~15) | (t << 2) | ((in16 >> 3) << 1) | (in16 & 1);
}

/// Byte of code (key, channel) in a tile of V^T: a row of 128 bytes a channel.
SAGE2_HOST_DEVICE constexpr int v_offset(int key, int channel) {
  const int p = permuted_key(key);
  return channel * kTileKeys + (((p >> 4) ^ (channel & 7)) << 4) + (p & 15);
}

enum class OutType : std::uint8_t { fp32, fp16, bf16 };

/// How the query rows of all heads are cut into pieces of work: first `whole` ones of as many rows as a block has
/// warpgroups for, then pieces of `rows` rows.
struct Pieces {
  int count;  ///< in all
  int whole;
  int rows;
};

/// Whether a kernel can make codes of V. With 64 columns and without smooth Q it would lose what the preparation gains,
/// since four warpgroups leave few registers (measured, docs/performance-gpu.md).
SAGE2_HOST_DEVICE constexpr bool makes_values(int dim, bool smooth_q) {
  return dim > 64 || smooth_q;
}
/// Keys of V whose codes a warp of the attention kernel makes at a time.
SAGE2_HOST_DEVICE constexpr int unit_keys(int dim) {
  return dim == 256 ? 32 : 64;
}

/// Queries of which the attention kernel makes codes.
struct Queries {
  TensorView captured;  ///< FP16 or BF16; without data where codes are given
  const float* mean;    ///< [q_count, q_blocks, dim] with smooth Q, or null
  QkGran gran;
  float top;  ///< largest code
};

/// How codes of V are shared out between pieces of work (sm90_work.hpp).
struct ValueShares {
  int pieces;       ///< of a group of heads
  int taking_part;  ///< the first ones of them
  int heads;        ///< key/value heads of a group
  int first;        ///< the first head whose codes are not given
  int units;        ///< of a head
  int all_heads;    ///< over batch and key/value heads
};

/// Values of which the attention kernel makes codes, all but those of the first `groups_ahead` groups of
/// heads_per_group query heads.
struct Values {
  std::uint8_t* codes;  ///< AttentionParams::v, or null where all codes are given; else queries are captured, too
  int groups_ahead;     ///< 1 or 2
  ValueShares shares;   ///< set by the launch
  CUtensorMap rows;     ///< the tensor, in boxes of kSegmentRows tokens (sm90_tensor_map.hpp)
};

/// Operands and output of the attention kernel; all pointers to device memory. dim is padded_head_dim(head_dim).
struct AttentionParams {
  Queries queries;  ///< or, if they have no data, q and q_scale
  Values values;
  const std::uint8_t* q;       ///< [q_count, q_tiles, image of 64 rows]: INT8 or E4M3 codes
  const std::uint8_t* k;       ///< [kv_count, k_tiles, image of 128 keys]
  const std::uint8_t* v;       ///< [kv_count, k_tiles, image of dim channels x 128 keys]: E4M3
  const float* q_scale;        ///< [q_count, q_tiles * 64]: a scale a row
  const float* k_scale;        ///< [kv_count, k_tiles, 4]: scale of keys 8i+2t and 8i+2t+1 of the tile; in kernels of
                               ///< 64-key steps [kv_count, k_tiles, 128]: of each key
  const float* v_scale;        ///< [kv_count, dim]
  const float* v_mean;         ///< [kv_count, dim], or null without smooth V
  const float* delta_s;        ///< [q_count, q_blocks of 128 rows, k_tiles * 128], base 2, less a constant a row where
                               ///< K is smoothed (reference_key); null without smooth Q
  void* o;                     ///< [batch, q_heads, q_len, head_dim] with the strides below
  float* lse;                  ///< [q_count, q_len] natural log-sum-exp, or null
  const float* lse_shift;      ///< [q_count, q_len]: what smooth K took from the scores of a row; null without
  unsigned long long* counts;  ///< accuracy kernels: [q_count, 3] underflow, total, saturated (LoopCounts); or null
  int* next_tile;              ///< the next piece of work; with `values` [kv_count] numbers follow: units whose codes
                               ///< are there. Zero at launch.
  std::int64_t o_stride_batch, o_stride_head, o_stride_token;  ///< elements
  OutType o_type;
  int batch, q_heads, kv_heads;
  int q_len, kv_len, head_dim;
  int q_tiles, k_tiles, q_blocks;
  int is_causal, causal_shift;
  Pieces pieces;        ///< set by the launch, which knows the kernel
  int group;            ///< kernels of 64-key steps: products of P V that are summed at once, 16 or 32
  int heads_per_group;  ///< heads whose K and V stay in L2 while a causal group is worked through; with `values` also
                        ///< those whose codes of V are made while an earlier group is
  float scale_log2;     ///< sm_scale log2(e)
  float p_offset;       ///< log2(448), rounded down
};

}  // namespace sage2::cuda::sm90
