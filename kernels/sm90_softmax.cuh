#pragma once

#include <climits>
#include <type_traits>

#include "kernels/sm90_tiles.hpp"
#include "reference/exp2.hpp"

/// The online softmax of one score tile, in the registers of a warpgroup. A thread holds rows g and g + 8 of its warp's
/// 16 (g = lane / 4), columns 2t and 2t + 1 of every 8 keys (t = lane % 4): element 4b + 2r + j is row g + 8r, key
/// 8b + 2t + j. The order of operations is that of docs/numerics.md section 3.
namespace sage2::cuda::sm90 {

/// The polynomial that both engines share: results equal the emulation's, bit for bit; events are counted.
struct SharedExp2 {
  static constexpr bool kAccurate = true;
  template <int kIndex>
  static __device__ __forceinline__ float exp2(float x) {
    return exp2_shared(x);
  }
};

/// ex2.approx (2 ulp) on the special function unit; of every `kOutOf` exponentials the first `kPolynomials` by a cubic
/// polynomial on the FMA pipe instead (relative error 1e-4, where rounding P to E4M3 costs up to 6e-2), since the unit
/// does 16 a clock while the pipe has slots to spare.
template <int kPolynomials = 0, int kOutOf = 8>
struct FastExp2 {
  static constexpr bool kAccurate = false;
  template <int kIndex>
  static __device__ __forceinline__ float exp2(float x) {
    if constexpr (kIndex % kOutOf < kPolynomials) {
      const float y = fmaxf(x, -126.0F);
      const float shifted = y + 12582912.0F;  // 1.5 x 2^23: the nearest integer in the low bits
      const float f = y - (shifted - 12582912.0F);
      float q = 5.5171657e-2F;
      q = fmaf(q, f, 2.4261162e-1F);
      q = fmaf(q, f, 6.9326097e-1F);
      q = fmaf(q, f, 9.9992807e-1F);
      return __uint_as_float(__float_as_uint(q) + (__float_as_uint(shifted) << 23));
    } else {
      float y;
      asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
      return y;
    }
  }
};

/// Below every score; finite, so that a row without a visible key never computes infinity minus infinity.
inline constexpr float kNoScore = -1e30F;

struct Rows {
  float m[2];                           ///< running maximum, less the offset
  float l[2];                           ///< this thread's partial sum of P
  unsigned underflow[2], saturated[2];  ///< accuracy kernels only: not per row, but in two independent counters
};

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0U, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0U, x, 2));
}

/// Four values of P in E4M3, the first in the low byte.
__device__ __forceinline__ std::uint32_t pack_e4m3(float p0, float p1, float p2, float p3) {
  std::uint32_t out;
  asm("{\n.reg .b16 low, high;\n"
      "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
      "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
      "mov.b32 %0, {low, high};\n}\n"
      : "=r"(out)
      : "f"(p0), "f"(p1), "f"(p2), "f"(p3));
  return out;
}
/// Registers 2i and 2i + 1 of the A operand: 16 keys of rows g and g + 8. Keys were permuted so that no exchange
/// between threads is needed.
template <int kElements>
__device__ __forceinline__ void pack_keys(int i, const float (&p)[kElements], std::uint32_t (&out)[kElements / 4]) {
  out[2 * i] = pack_e4m3(p[8 * i], p[8 * i + 1], p[8 * i + 4], p[8 * i + 5]);
  out[2 * i + 1] = pack_e4m3(p[8 * i + 2], p[8 * i + 3], p[8 * i + 6], p[8 * i + 7]);
}

/// From products of codes to codes of P, for step `kStep` of C::kKeys keys of the tile of 128. seen[r]: how many
/// columns of the tile row r sees, less 2t (only where kMasked). alpha[r]: the factor from the old maximum to the new
/// one. k_scale, delta: of the tile.
template <class C, bool kMasked, int kStep, class Acc>
__device__ __forceinline__ void softmax_tile(const Acc (&tile)[64], const float (&q_scale)[2], const float* k_scale,
                                             const float* delta, float offset, const int (&seen)[2], Rows& rows,
                                             float (&alpha)[2], std::uint32_t (&packed)[C::kKeys / 8]) {
  using Exp = typename C::Exp;
  constexpr int kElements = C::kKeys / 2;
  constexpr int kFirst = kStep * kElements;
  const Acc* const acc = tile + kFirst;
  float x[kElements] = {};
  const int t = threadIdx.x % 4;
  float f[2] = {q_scale[0], q_scale[1]};
  if constexpr (!C::kScaleAKey) {
    f[0] *= k_scale[t];
    f[1] *= k_scale[t];
  }
  // Of element i.
  const auto factor = [&](int i) {
    const float row = f[i % 4 / 2];
    return C::kScaleAKey ? row * k_scale[2 * kFirst + i / 4 * 8 + 2 * t + i % 2] : row;
  };
  float largest[2] = {kNoScore, kNoScore};
  const auto visible = [&](int i) { return (kFirst + i) / 4 * 8 + i % 2 < seen[i % 4 / 2]; };

  if constexpr (C::kSmoothQ) {
    int bits[2] = {INT_MIN, INT_MIN};
#pragma unroll
    for (int b = 0; b < kElements / 4; ++b) {
      const float2 d = *reinterpret_cast<const float2*>(delta + 2 * kFirst + 8 * b + 2 * t);
#pragma unroll
      for (int i = 4 * b; i < 4 * b + 4; ++i) {
        x[i] = fmaf(static_cast<float>(acc[i]), factor(i), i % 2 == 0 ? d.x : d.y);
        if (!kMasked || visible(i)) bits[i % 4 / 2] = max(bits[i % 4 / 2], __float_as_int(x[i]));
      }
    }
    // As integers, of which one instruction compares three, positive scores come in their order and above negative
    // ones, but these in the opposite order: a row's largest is right unless all of a thread's scores in it are
    // negative, or one is NaN, which comes above infinity.
    constexpr unsigned kInfinity = 0x7F800000U;
    if (__any_sync(~0U, max(static_cast<unsigned>(bits[0]), static_cast<unsigned>(bits[1])) > kInfinity)) {
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        if (!kMasked || visible(i)) largest[i % 4 / 2] = fmaxf(largest[i % 4 / 2], x[i]);
      }
    } else {
#pragma unroll
      for (int r = 0; r < 2; ++r) largest[r] = __int_as_float(bits[r]);
    }
  } else if constexpr (C::kScaleAKey) {
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      x[i] = factor(i);
      if (!kMasked || visible(i)) {
        largest[i % 4 / 2] = fmaxf(largest[i % 4 / 2], static_cast<float>(acc[i]) * x[i]);
      }
    }
  } else {
    // A thread has one positive scale a row in this tile, so the largest product of codes gives the largest score.
    constexpr Acc kLeast = std::is_same_v<Acc, int> ? static_cast<Acc>(INT_MIN) : static_cast<Acc>(-1e30F);
    Acc top[2] = {kLeast, kLeast};
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      if (!kMasked || visible(i)) top[i % 4 / 2] = max(top[i % 4 / 2], acc[i]);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (!kMasked || top[r] > kLeast) largest[r] = static_cast<float>(top[r]) * f[r];
    }
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float m = fmaxf(rows.m[r], quad_max(largest[r]) - offset);
    alpha[r] = Exp::template exp2<7>(rows.m[r] - m);
    rows.m[r] = m;
    rows.l[r] = rows.l[r] * alpha[r];
  }

  constexpr int kChunk = 8;
  constexpr int kChunks = kElements / kChunk;
  const auto exponential = [&]<int kIndex>() {
    constexpr int r = kIndex % 4 / 2;
    float e;
    if constexpr (C::kSmoothQ) {
      e = x[kIndex] - rows.m[r];
    } else {
      e = fmaf(static_cast<float>(acc[kIndex]), C::kScaleAKey ? x[kIndex] : f[r], -rows.m[r]);
    }
    float y = Exp::template exp2<kIndex / 2>(e);
    if constexpr (kMasked) y = visible(kIndex) ? y : 0.0F;
    x[kIndex] = y;
  };
  const auto add = [&]<int kIndex>() {
    constexpr int r = kIndex % 4 / 2;
    const float y = x[kIndex];
    if constexpr (Exp::kAccurate) {
      // E4M3 rounds up to 2^-10 to zero; P may exceed 448 by the rounding of the maximum.
      constexpr float kLargest = 448.0F * (1 + 0x1p-20F);
      rows.underflow[r] += y <= 0x1p-10F && (!kMasked || visible(kIndex)) ? 1 : 0;
      rows.saturated[r] += y > kLargest ? 1 : 0;
    }
    rows.l[r] += y;
  };
  // While a chunk's exponentials are computed, the chunk before is summed and packed.
  const auto chunk = [&]<int kIndex>() {
    if constexpr (kIndex < kChunks) {
      [&]<int... i>(std::integer_sequence<int, i...>) {
        (exponential.template operator()<kIndex * kChunk + i>(), ...);
      }
      (std::make_integer_sequence<int, kChunk>{});
    }
    if constexpr (kIndex > 0) {
      [&]<int... i>(std::integer_sequence<int, i...>) {
        (add.template operator()<(kIndex - 1) * kChunk + i>(), ...);
      }
      (std::make_integer_sequence<int, kChunk>{});
      pack_keys(kIndex - 1, x, packed);
    }
  };
  [&]<int... kIndex>(std::integer_sequence<int, kIndex...>) {
    (chunk.template operator()<kIndex>(), ...);
  }
  (std::make_integer_sequence<int, kChunks + 1>{});
}

}  // namespace sage2::cuda::sm90
