#pragma once

#include "kernels/sm90_prepare.cuh"

/// Quantising jobs of Q and K: 128 rows, one read, codes straight into tile images.
namespace sage2::cuda::sm90 {

template <class T>
using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
template <class T>
struct alignas(16) Pairs {
  Pair<T> x[4];
};
template <class T>
__device__ __forceinline__ Pairs<T> as_pairs(const Chunk<T>& chunk) {
  return *reinterpret_cast<const Pairs<T>*>(&chunk);
}

inline constexpr float kMagic = 12582912.0F;  // 1.5 x 2^23: adding it leaves the nearest integer in the low bits

/// The scale's inverse, a little less and a little more: between x below and x above lies the IEEE quotient x / scale.
struct Scale {
  float scale, below, above;
};
__device__ __forceinline__ Scale with_inverse(float scale) {
  const float inverse = 1.0F / scale;
  return {scale, inverse * (1 - 0x1p-21F), inverse * (1 + 0x1p-21F)};
}

struct Eight {
  float x[8];
};

/// x / scale rounded to integers, plus kMagic: by IEEE division, as the definition says.
__device__ __noinline__ Eight divide(Eight x, float scale, bool half_away, float top) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float quotient = x.x[i] / scale;
    const float rounded = half_away ? truncf(quotient + copysignf(0.5F, quotient)) : rintf(quotient);
    x.x[i] = fminf(fmaxf(rounded, -top), top) + kMagic;
  }
  return x;
}

/// Eight codes of one row: x / scale rounded. Where both bounds of the quotient round alike, so does it.
__device__ __forceinline__ uint2 encode(const Eight& x, const Scale& s, bool half_away, float top, bool e4m3) {
  Eight shifted;
  unsigned different = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    shifted.x[i] = fmaf(x.x[i], s.below, kMagic);
    different |= __float_as_uint(shifted.x[i]) ^ __float_as_uint(fmaf(x.x[i], s.above, kMagic));
  }
  if (different != 0) shifted = divide(x, s.scale, half_away, top);
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

/// Shared memory of a job on rows.
template <int kDim>
struct RowsShared {
  static constexpr int kChunks = kDim / 8;                 ///< threads a row
  static constexpr int kRows = kPrepareThreads / kChunks;  ///< rows at a time
  double sums[kRows][kDim];
  float mean[kDim];
  float row_max[kJobRows];
  Scale row_scale[kJobRows];
};

/// Sums of each channel over the rows a block holds, into s.sums[0]; the order is fixed.
template <int kDim>
__device__ __forceinline__ void add_up(RowsShared<kDim>& s, const double (&sum)[8], int lane_row, int chunk) {
#pragma unroll
  for (int i = 0; i < 8; ++i) s.sums[lane_row][chunk * 8 + i] = sum[i];
  __syncthreads();
  if (threadIdx.x < kDim) {
    double total = 0;
    for (int r = 0; r < RowsShared<kDim>::kRows; ++r) total += s.sums[r][threadIdx.x];
    s.sums[0][threadIdx.x] = total;
  }
  __syncthreads();
}

/// Query rows that share a scale.
struct GroupRows {
  int first, step, count;
};
__device__ __forceinline__ int query_groups(QkGran gran) {
  return gran == QkGran::per_thread ? kJobRows / 2 : (gran == QkGran::per_warp ? kJobRows / 16 : 2);
}
__device__ __forceinline__ GroupRows query_group(QkGran gran, int id) {
  // Segments of 16 rows a warp; a thread's rows are t and t + 8 of them.
  if (gran == QkGran::per_thread) return {id / 8 * 16 + id % 8, 8, 2};
  const int rows = gran == QkGran::per_warp ? 16 : 64;
  return {id * rows, 1, rows};
}
__device__ __forceinline__ float scale_of(float amax, bool half_away, float top) {
  return half_away ? amax / top + 1e-7F : fmaxf(1e-7F, amax) / top;
}

/// Quantises rows first .. first + 127 of a head. kSubtract: `mean` is subtracted from every row (null for zeros), or,
/// of queries, the block's own mean, which is kept for dS.
template <int kDim, class T, bool kIsQ, bool kSubtract>
__device__ void quantize_rows(const PrepareParams& p, RowsShared<kDim>& s, std::int64_t head, int first,
                              const float* mean) {
  constexpr int kChunks = RowsShared<kDim>::kChunks;
  constexpr int kRows = RowsShared<kDim>::kRows;
  constexpr int kPasses = kJobRows / kRows;
  const TensorView& tensor = kIsQ ? p.q : p.k;
  const int length = kIsQ ? p.q_len : p.kv_len;
  const int chunk = threadIdx.x % kChunks;
  const int lane_row = threadIdx.x / kChunks;
  const int count = min(kJobRows, length - first);
  const bool half_away = p.options.gran == QkGran::per_thread;

  Chunk<T> raw[kPasses];
  load_rows<kPasses, kRows>(raw, head_of<T>(tensor, head), tensor.stride_token, first + lane_row, length, chunk * 8,
                            p.head_dim, kIsQ ? p.wide_q : p.wide_k);
  float subtract[8];
  if constexpr (kSubtract) {
    if constexpr (kIsQ) {
      double sum[8] = {};
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
#pragma unroll
        for (int i = 0; i < 8; ++i) sum[i] += static_cast<double>(to_float(raw[pass].x[i]));
      }
      add_up(s, sum, lane_row, chunk);
      if (threadIdx.x < kDim) {
        const float m = static_cast<float>(s.sums[0][threadIdx.x] / static_cast<double>(count));
        s.mean[threadIdx.x] = m;
        // Two 16-bit halves for the tensor cores that compute dS: [head][block][high, low][kDim].
        const float high = round_like<T>(m);
        T* const to = part<T>(p, p.at.q_mean) + (head * p.q_blocks + first / kMeanRows) * 2 * kDim + threadIdx.x;
        to[0] = static_cast<T>(high);
        to[kDim] = static_cast<T>(m - high);
      }
      __syncthreads();
      mean = s.mean;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) subtract[i] = mean != nullptr ? mean[chunk * 8 + i] : 0.0F;
  }
  const auto smoothed = [&](int pass) {
    Eight x;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      x.x[i] = to_float(raw[pass].x[i]);
      if constexpr (kSubtract) x.x[i] = x.x[i] - subtract[i];
    }
    return x;
  };
  float row_max[kPasses];  // this thread's chunk of each of its rows
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    if constexpr (kSubtract) {
      const Eight x = smoothed(pass);
      float amax = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) amax = fmaxf(amax, fabsf(x.x[i]));
      row_max[pass] = pass * kRows + lane_row < count ? amax : 0.0F;
    } else {
      const auto x = as_pairs(raw[pass]);
      const auto amax = __hmax2(__hmax2(__habs2(x.x[0]), __habs2(x.x[1])), __hmax2(__habs2(x.x[2]), __habs2(x.x[3])));
      row_max[pass] = fmaxf(to_float(amax.x), to_float(amax.y));
    }
  }

  Scale scale;  // of K: a thread's rows share one
  if constexpr (kIsQ) {
    // Maxima of several rows over the threads of a row: each exchange halves the rows that a thread answers for.
    int held = 0;
#pragma unroll
    for (int step = kChunks / 2, n = kPasses; step > 0; step /= 2) {
      if (n > 1) {
        n /= 2;
        const bool upper = (chunk & step) != 0;
#pragma unroll
        for (int i = 0; i < n; ++i) {
          const float keep = upper ? row_max[i + n] : row_max[i];
          const float give = upper ? row_max[i] : row_max[i + n];
          row_max[i] = fmaxf(keep, __shfl_xor_sync(~0U, give, step));
        }
        held += upper ? n : 0;
      } else {
        row_max[0] = fmaxf(row_max[0], __shfl_xor_sync(~0U, row_max[0], step));
      }
    }
    constexpr int kSharers = kChunks > kPasses ? kChunks / kPasses : 1;
    static_assert(kPasses <= kChunks);
    if (chunk % kSharers == 0) s.row_max[held * kRows + lane_row] = row_max[0];
    __syncthreads();
    if (threadIdx.x < query_groups(p.options.gran)) {
      const auto g = query_group(p.options.gran, threadIdx.x);
      float amax = 0;
      for (int k = 0; k < g.count; ++k) amax = fmaxf(amax, s.row_max[g.first + g.step * k]);
      const Scale of_group = with_inverse(scale_of(amax, half_away, p.top));
      for (int k = 0; k < g.count; ++k) s.row_scale[g.first + g.step * k] = of_group;
    }
    __syncthreads();
    const int row = first + threadIdx.x;
    if (threadIdx.x < kJobRows && row < p.q_tiles * kTileRows) {
      part<float>(p, p.at.q_scale)[head * p.q_tiles * kTileRows + row] =
          threadIdx.x < count ? s.row_scale[threadIdx.x].scale : 0.0F;
    }
  } else {
    // Keys 8i + 2t and 8i + 2t + 1 share a scale, and a thread's rows are a multiple of 8 apart.
    static_assert(kRows % 8 == 0);
    float amax = 0;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) amax = fmaxf(amax, row_max[pass]);
#pragma unroll
    for (int step = kChunks / 2; step > 0; step /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0U, amax, step));
    if (chunk == 0) s.row_max[lane_row] = amax;
    __syncthreads();
    const int t = half_away ? lane_row / 2 % 4 : 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!half_away || r / 2 % 4 == t) amax = fmaxf(amax, s.row_max[r]);
    }
    scale = with_inverse(scale_of(amax, half_away, p.top));
    if (chunk == 0 && lane_row < 8 && lane_row % 2 == 0) {
      part<float>(p, p.at.k_scale)[(head * p.k_tiles + first / kTileKeys) * 4 + lane_row / 2] = scale.scale;
    }
  }

  constexpr int kTile = kIsQ ? kTileRows : kTileKeys;
  std::uint8_t* const image = part<std::uint8_t>(p, kIsQ ? p.at.q : p.at.k) +
                              (head * (kIsQ ? p.q_tiles : p.k_tiles) + first / kTile) * (kTile * kDim) +
                              qk_offset(kTile, kDim, lane_row, chunk * 8);
  const int rows = kIsQ ? p.q_tiles * kTileRows - first : kTileKeys;  // that have a place in the image
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int row = pass * kRows + lane_row;
    if constexpr (kIsQ) scale = s.row_scale[row];
    uint2 codes = encode(smoothed(pass), scale, half_away, p.top, p.options.e4m3_codes);
    if (row >= count) codes = {0, 0};
    // Rows of a thread are a multiple of 8 apart, so the exchange of chunks is the same for all of them.
    constexpr int kStep = kDim == 64 ? 64 : 128;
    const int tile = pass * kRows / kTile;
    const int at = tile * kTile * kDim + (pass * kRows - tile * kTile) * kStep;
    if (!kIsQ || row < rows) *reinterpret_cast<uint2*>(image + at) = codes;
  }
}

}  // namespace sage2::cuda::sm90
