#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cfloat>
#include <cstdint>
#include <type_traits>

#include "kernels/sm90_async.cuh"
#include "kernels/sm90_tiles.hpp"

/// Codes of Q and K from 16-bit numbers, eight channels of a row at a time, with the bits of sage2::quantize, and
/// places of codes of V: what the preparation and the attention kernel share.
namespace sage2::cuda::sm90 {

struct Eight {
  float x[8];
};

/// Eight channels of a row.
template <class T>
__device__ __forceinline__ Eight to_floats(const uint4& raw) {
  const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
  Eight out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<T, __half>) {
      const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
      out.x[2 * i] = pair.x;
      out.x[2 * i + 1] = pair.y;
    } else {
      out.x[2 * i] = __uint_as_float(words[i] << 16);
      out.x[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000U);
    }
  }
  return out;
}

template <class T>
using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
template <class T>
struct alignas(16) Pairs {
  Pair<T> x[4];
};
template <class T>
__device__ __forceinline__ Pairs<T> as_pairs(const uint4& raw) {
  return *reinterpret_cast<const Pairs<T>*>(&raw);
}

/// Largest magnitude of eight channels.
template <class T>
__device__ __forceinline__ float magnitude(const uint4& raw) {
  const auto x = as_pairs<T>(raw);
  const auto amax = __hmax2(__hmax2(__habs2(x.x[0]), __habs2(x.x[1])), __hmax2(__habs2(x.x[2]), __habs2(x.x[3])));
  return fmaxf(__low2float(amax), __high2float(amax));
}
__device__ __forceinline__ float magnitude(const Eight& x) {
  float amax = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) amax = fmaxf(amax, fabsf(x.x[i]));
  return amax;
}

inline constexpr float kMagic = 12582912.0F;  // 1.5 x 2^23: adding it leaves the nearest integer in the low bits

/// The scale's inverse, a little less and a little more: between x below and x above lies the IEEE quotient x / scale.
struct Scale {
  float scale, below, above;
};
__device__ __forceinline__ float rough_inverse(float x) {
  float inverse;  // to 2^-23
  asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(inverse) : "f"(x));
  return inverse;
}
__device__ __forceinline__ Scale bounds(float scale, float inverse) {
  return {scale, inverse * (1 - 0x1p-21F), inverse * (1 + 0x1p-21F)};
}
/// The same, closer. The quotient is off by 2^-24 of itself, what an approximate inverse is off by is computed, and
/// where a half is rounded away from zero the float before 0.5 becomes 1, too, which takes half as much again above.
/// (K' lies on a grid, since K's mean has 16 bits, so with few codes 1 of 1000 numbers is half way between two; but
/// with 1e-7 added to the scale its quotient is 2^-24 to 2^-21 less, so most of these are certain.)
__device__ __forceinline__ Scale with_inverse(float scale) {
  const float inverse = rough_inverse(scale);
  const float error = fmaf(-scale, inverse, 1.0F);
  const float known = fabsf(error) < 1 ? error : 0.0F;
  constexpr float kRounding = 0x1.01p-24F;
  return {scale, __fmaf_rd(inverse, known - kRounding, inverse), __fmaf_ru(inverse, known + 1.5F * kRounding, inverse)};
}

/// The inverse that the division of floats works with: an approximation and one step of Newton's method.
__device__ __forceinline__ float inverse_of(float x) {
  const float y = rough_inverse(x);
  return fmaf(y, fmaf(-x, y, 1.0F), y);
}

/// The IEEE quotient of finite numbers by the steps that division is compiled to, without its branch for extremes:
/// `by` in 2^-100 .. 2^100 or the quotient of no interest below 2^-100.
__device__ __forceinline__ float quotient_of(float x, float by) {
  const float inverse = inverse_of(by);
  float q = x * inverse;
  q = fmaf(inverse, fmaf(-by, q, x), q);
  return fmaf(inverse, fmaf(-by, q, x), q);
}

/// The scale of rows whose largest magnitude is `amax`.
__device__ __forceinline__ float scale_of(float amax, bool half_away, float top) {
  const float least = half_away ? amax : fmaxf(1e-7F, amax);
  const float scale = least <= FLT_MAX ? quotient_of(least, top) : least;
  return half_away ? scale + 1e-7F : scale;
}

/// x / scale rounded to an integer, plus kMagic, as the definition says it: for what `encode` is not sure of.
__device__ __forceinline__ float divide(float x, float scale, bool half_away, float top) {
  const float quotient = quotient_of(x, scale);
  const float rounded = half_away ? truncf(quotient + copysignf(0.5F, quotient)) : rintf(quotient);
  return fminf(fmaxf(rounded, -top), top) + kMagic;
}

/// Two numbers as E4M3, the first in the low byte.
__device__ __forceinline__ std::uint16_t e4m3_pair(float a, float b) {
  std::uint16_t out;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;\n" : "=h"(out) : "f"(b), "f"(a));
  return out;
}

/// Eight codes from integers plus kMagic.
__device__ __forceinline__ uint2 pack(const Eight& shifted, bool e4m3) {
  uint2 out;
  if (e4m3) {
    const auto pair = [&](int i) {
      return static_cast<unsigned>(e4m3_pair(shifted.x[i] - kMagic, shifted.x[i + 1] - kMagic));
    };
    out.x = pair(0) | pair(2) << 16;
    out.y = pair(4) | pair(6) << 16;
  } else {
    // The low byte of the shifted number is the code in two's complement.
    const auto four = [&](int i) {
      const unsigned a = __byte_perm(__float_as_uint(shifted.x[i]), __float_as_uint(shifted.x[i + 1]), 0x0040);
      const unsigned b = __byte_perm(__float_as_uint(shifted.x[i + 2]), __float_as_uint(shifted.x[i + 3]), 0x0040);
      return __byte_perm(a, b, 0x5410);
    };
    out.x = four(0);
    out.y = four(4);
  }
  return out;
}

/// Eight codes of one row: x / scale rounded. Where both bounds of the quotient round alike, so does it; `unsure` is
/// not zero where they do not.
__device__ __forceinline__ uint2 encode(const Eight& x, const Scale& s, bool e4m3, unsigned& unsure) {
  Eight shifted;
  unsure = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    shifted.x[i] = fmaf(x.x[i], s.below, kMagic);
    unsure |= __float_as_uint(shifted.x[i]) ^ __float_as_uint(fmaf(x.x[i], s.above, kMagic));
  }
  return pack(shifted, e4m3);
}

/// Stores word (key, channel + i) of a tile of V^T, given the place of (key, channel): i below 8, channel a multiple
/// of 8.
__device__ __forceinline__ void store_further(std::uint8_t* at, int i, unsigned word) {
  // A row is 128 bytes, and its chunks of 16 are exchanged by the channel's low bits. Tiles are as large as
  // kWorkspaceAlignment or more, and aligned to it.
  const auto to = reinterpret_cast<std::uintptr_t>(at) ^ static_cast<unsigned>(i * (kTileKeys + 16));
  store_streaming(reinterpret_cast<void*>(to), word);
}

}  // namespace sage2::cuda::sm90
