#pragma once

#include "kernels/sm90_prepare.cuh"

/// Quantising jobs of Q and K: 128 rows, one read, codes straight into tile images.
namespace sage2::cuda::sm90 {

/// Shared memory of a job on rows.
template <int kDim>
struct RowsShared {
  static constexpr int kChunks = kDim / 8;                 ///< threads a row
  static constexpr int kRows = kPrepareThreads / kChunks;  ///< rows at a time
  double sums[kRows][kDim];
  float mean[kDim];
  float row_max[kJobRows];
  float row_scale[kJobRows];
  float row_inverse[kJobRows];
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

/// Eight codes of one row: x / scale, an IEEE division, rounded. Multiplying by the inverse is off by less than 2^-23
/// of the quotient, so it decides every rounding but those within 1e-4 of a tie; only there the division is done.
__device__ __forceinline__ uint2 encode(const float (&x)[8], float scale, float inverse, bool half_away, float top,
                                        bool e4m3) {
  constexpr float kMagic = 12582912.0F;  // 1.5 x 2^23: adding it leaves the nearest integer in the low bits
  float shifted[8];
  float from_integer = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float y = x[i] * inverse;
    shifted[i] = y + kMagic;
    from_integer = fmaxf(from_integer, fabsf(y - (shifted[i] - kMagic)));
  }
  if (from_integer > 0.5F - 1e-4F) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float quotient = x[i] / scale;
      const float rounded = half_away ? truncf(quotient + copysignf(0.5F, quotient)) : rintf(quotient);
      shifted[i] = fminf(fmaxf(rounded, -top), top) + kMagic;
    }
  }
  uint2 out;
  if (e4m3) {
    const auto pair = [&](int i) {
      return static_cast<unsigned>(e4m3_pair(shifted[i] - kMagic, shifted[i + 1] - kMagic));
    };
    out.x = pair(0) | pair(2) << 16;
    out.y = pair(4) | pair(6) << 16;
  } else {
    // The low byte of the shifted number is the code in two's complement.
    const auto four = [&](int i) {
      const unsigned a = __byte_perm(__float_as_uint(shifted[i]), __float_as_uint(shifted[i + 1]), 0x0040);
      const unsigned b = __byte_perm(__float_as_uint(shifted[i + 2]), __float_as_uint(shifted[i + 3]), 0x0040);
      return __byte_perm(a, b, 0x5410);
    };
    out.x = four(0);
    out.y = four(4);
  }
  return out;
}

/// The rows of a scale group, as a range with a step and pairs: rows first + step k + {0 .. width - 1}.
struct GroupRows {
  int first, step, width, count;
};
__device__ __forceinline__ int group_count(bool is_q, QkGran gran) {
  if (is_q) return gran == QkGran::per_thread ? kJobRows / 2 : (gran == QkGran::per_warp ? kJobRows / 16 : 2);
  return gran == QkGran::per_thread ? 4 : 1;
}
__device__ __forceinline__ GroupRows group_rows(bool is_q, QkGran gran, int id) {
  if (is_q) {
    // Segments of 16 rows a warp; a thread's rows are t and t + 8 of them.
    if (gran == QkGran::per_thread) return {id / 8 * 16 + id % 8, 8, 1, 2};
    const int rows = gran == QkGran::per_warp ? 16 : 64;
    return {id * rows, 1, 1, rows};
  }
  if (gran == QkGran::per_thread) return {2 * id, 8, 2, kJobRows / 8};
  return {0, 1, 1, kJobRows};
}

/// Quantises rows first .. first + 127 of a head. `mean`: what to subtract from every row, or null; with smooth Q the
/// block's own mean is taken first (and kept for dS).
template <int kDim, class T, bool kIsQ>
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

  Chunk<T> raw[kPasses];
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int row = pass * kRows + lane_row;
    raw[pass] = {};
    if (row < count) raw[pass] = load_chunk(token<T>(tensor, head, first + row), chunk * 8, p.head_dim);
  }
  const bool own_mean = kIsQ && p.options.smooth_q;
  if (own_mean) {
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
  } else if (threadIdx.x < kDim) {
    s.mean[threadIdx.x] = mean != nullptr ? mean[threadIdx.x] : 0.0F;
  }
  __syncthreads();
  float subtract[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) subtract[i] = s.mean[chunk * 8 + i];

  const auto smoothed = [&](int pass, float(&x)[8]) {
    const bool real = pass * kRows + lane_row < count;
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = real ? to_float(raw[pass].x[i]) - subtract[i] : 0.0F;
  };
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    float x[8];
    smoothed(pass, x);
    float amax = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) amax = fmaxf(amax, fabsf(x[i]));
#pragma unroll
    for (int step = kChunks / 2; step > 0; step /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0U, amax, step));
    if (chunk == 0) s.row_max[pass * kRows + lane_row] = amax;
  }
  __syncthreads();
  const bool half_away = p.options.gran == QkGran::per_thread;
  if (threadIdx.x < group_count(kIsQ, p.options.gran)) {
    const auto g = group_rows(kIsQ, p.options.gran, threadIdx.x);
    float amax = 0;
    for (int k = 0; k < g.count; ++k) {
      for (int j = 0; j < g.width; ++j) amax = fmaxf(amax, s.row_max[g.first + g.step * k + j]);
    }
    const float scale = half_away ? amax / p.top + 1e-7F : fmaxf(1e-7F, amax) / p.top;
    for (int k = 0; k < g.count; ++k) {
      for (int j = 0; j < g.width; ++j) {
        s.row_scale[g.first + g.step * k + j] = scale;
        s.row_inverse[g.first + g.step * k + j] = 1.0F / scale;
      }
    }
    if constexpr (!kIsQ) {
      float* const to = part<float>(p, p.at.k_scale) + (head * p.k_tiles + first / kTileKeys) * 4;
      if (half_away) {
        to[threadIdx.x] = scale;
      } else {
        for (int t = 0; t < 4; ++t) to[t] = scale;
      }
    }
  }
  __syncthreads();
  if constexpr (kIsQ) {
    const int row = first + threadIdx.x;
    if (threadIdx.x < kJobRows && row < p.q_tiles * kTileRows) {
      part<float>(p, p.at.q_scale)[head * p.q_tiles * kTileRows + row] =
          threadIdx.x < count ? s.row_scale[threadIdx.x] : 0.0F;
    }
  }
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    float x[8];
    smoothed(pass, x);
    const int row = pass * kRows + lane_row;
    const uint2 codes = encode(x, s.row_scale[row], s.row_inverse[row], half_away, p.top, p.options.e4m3_codes);
    constexpr int kTile = kIsQ ? kTileRows : kTileKeys;
    const int tile = (first + row) / kTile;
    if (kIsQ && tile >= p.q_tiles) continue;
    std::uint8_t* const image =
        part<std::uint8_t>(p, kIsQ ? p.at.q : p.at.k) + (head * (kIsQ ? p.q_tiles : p.k_tiles) + tile) * (kTile * kDim);
    *reinterpret_cast<uint2*>(image + qk_offset(kTile, kDim, row % kTile, chunk * 8)) = codes;
  }
}

}  // namespace sage2::cuda::sm90
