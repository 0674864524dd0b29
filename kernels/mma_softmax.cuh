#pragma once

#include <cstdint>

#include "kernels/mma.cuh"
#include "reference/exp2.hpp"
#include "reference/formats.hpp"

/// The softmax of one key tile in the registers of a warp, in the order of docs/numerics.md, section 3.
namespace sage2::cuda::mma {

/// What a thread knows of its two rows, lane / 4 and lane / 4 + 8 of the warp's.
struct Rows {
  float q_scale[2];  ///< with sm_scale log2(e)
  int visible[2];    ///< keys that the row sees
  float m[2], l[2], alpha[2];
};

/// S of a warp's rows and one key tile: a fragment for every 8 keys; elements 2r and 2r + 1 belong to row r.
using Fragments = float[8][4];

/// From S to P before it is rounded, in place. With smooth Q the score is S f + dS, and P takes the rounded score;
/// without, P takes S f in one rounding with the maximum.
template <bool kSmoothQ>
__device__ inline void softmax(const float* k_scale, const float* delta_s, int first_key, float offset, int t,
                               Rows& rows, Fragments& s) {
  const auto score = [](float x, float f, float delta) { return kSmoothQ ? fmaf(x, f, delta) : x * f; };
  float largest[2] = {-1e30F, -1e30F};
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int n = 8 * j + 2 * t + c;
      const float scale = k_scale[n];
      const float delta = kSmoothQ ? delta_s[n] : 0.0F;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float x = score(s[j][2 * r + c], rows.q_scale[r] * scale, delta);
        if (first_key + n < rows.visible[r]) largest[r] = fmaxf(largest[r], x);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xFFFFFFFFU, largest[r], 1));
    largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xFFFFFFFFU, largest[r], 2));
    const float m = fmaxf(rows.m[r], largest[r] - offset);
    rows.alpha[r] = exp2_shared(rows.m[r] - m);
    rows.m[r] = m;
    rows.l[r] *= rows.alpha[r];
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int n = 8 * j + 2 * t + c;
      const float scale = k_scale[n];
      const float delta = kSmoothQ ? delta_s[n] : 0.0F;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float& x = s[j][2 * r + c];
        const float f = rows.q_scale[r] * scale;
        const float p = exp2_shared(kSmoothQ ? score(x, f, delta) - rows.m[r] : fmaf(x, f, -rows.m[r]));
        x = first_key + n < rows.visible[r] ? p : 0.0F;
        // The lane's own partial sum: keys 8i + 2t and 8i + 2t + 1.
        rows.l[r] += x;
      }
    }
  }
}

/// Visible entries of P that round to zero, and those beyond the format.
template <Format kP>
__device__ inline void count_lost(const Fragments& p, int first_key, int t, const Rows& rows, std::uint32_t& underflow,
                                  std::uint32_t& saturated) {
  // Half of the smallest number rounds to even, which is zero.
  constexpr float kZero = kP == Format::fp16 ? 0x1p-25F : 0x1p-10F;
  // P may exceed its range by the rounding of the subtraction in its exponent, which is not counted.
  constexpr float kLimit = kP == Format::fp16 ? kFp16Max : kE4m3Max * (1 + 0x1p-20F);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool seen = first_key + 8 * j + 2 * t + i % 2 < rows.visible[i / 2];
      underflow += seen && p[j][i] <= kZero ? 1 : 0;
      saturated += p[j][i] > kLimit ? 1 : 0;
    }
  }
}

/// Fragments of P along the keys of a tile: 16 keys each for FP16, 32 for E4M3.
template <Format kP>
inline constexpr int kSteps = kP == Format::fp16 ? 4 : 2;

/// P rounded, as A fragments.
template <Format kP>
__device__ inline void round_p(const Fragments& p, std::uint32_t (&a)[kSteps<kP>][4]) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if constexpr (kP == Format::fp16) {
        a[j / 2][j % 2 * 2 + r] = ptx::to_f16x2(p[j][2 * r], p[j][2 * r + 1]);
      } else {
        // The keys of V are stored in the order that this makes.
        std::uint32_t& word = a[j / 4][j % 4 / 2 * 2 + r];
        const std::uint32_t pair = ptx::to_e4m3x2(p[j][2 * r], p[j][2 * r + 1]);
        word = j % 2 == 0 ? pair : word | pair << 16U;
      }
    }
  }
}

}  // namespace sage2::cuda::mma
