#pragma once

#include <cfloat>

#include "kernels/sm90_prepare_rows.cuh"

/// Statistics of K and V, codes of V, and dS.
namespace sage2::cuda::sm90 {

/// Sums of K's channels over a chunk of tokens; the last chunk of a head turns them into the mean.
template <int kDim, class T>
__device__ void k_statistics(const PrepareParams& p, RowsShared<kDim>& s, std::int64_t head, int index) {
  constexpr int kChunks = RowsShared<kDim>::kChunks;
  constexpr int kRows = RowsShared<kDim>::kRows;
  const int chunk = threadIdx.x % kChunks;
  const int lane_row = threadIdx.x / kChunks;
  const int first = index * kStatisticsRows;
  const int last = min(first + kStatisticsRows, p.kv_len);
  const T* const k = head_of<T>(p.k, head);
  double sum[8] = {};
  constexpr int kPasses = kDim == 256 ? 8 : 4;
  for (int row = first + lane_row; row < last; row += kPasses * kRows) {
    Chunk<T> raw[kPasses];
    load_rows<kPasses, kRows>(raw, k, p.k.stride_token, row, last, chunk * 8, p.head_dim, p.wide_k);
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] += static_cast<double>(to_float(raw[pass].x[i]));
    }
  }
  add_up(s, sum, lane_row, chunk);
  double* const sums = part<double>(p, p.at.k_sums) + head * p.chunks * kDim;
  if (threadIdx.x < kDim) sums[index * kDim + threadIdx.x] = s.sums[0][threadIdx.x];
  const Progress progress = progress_of(p);
  if (!complete(progress.k_chunks + head, p.chunks)) return;
  if (threadIdx.x < kDim) {
    double total = 0;
    for (int i = 0; i < p.chunks; ++i) total += sums[i * kDim + threadIdx.x];
    const float mean = static_cast<float>(total / static_cast<double>(p.kv_len));
    // The official kernels store the mean in the tensor's own format.
    part<float>(p, p.at.k_mean)[head * kDim + threadIdx.x] = round_like<T>(mean);
  }
  publish(progress.k_ready + head);
}

/// Extremes (and with smooth V sums) of V's channels over a chunk; the last chunk of a head makes scales and mean.
template <int kDim, class T>
__device__ void v_statistics(const PrepareParams& p, RowsShared<kDim>& s, std::int64_t head, int index) {
  constexpr int kChunks = RowsShared<kDim>::kChunks;
  constexpr int kRows = RowsShared<kDim>::kRows;
  const int chunk = threadIdx.x % kChunks;
  const int lane_row = threadIdx.x / kChunks;
  const int first = index * kStatisticsRows;
  const int last = min(first + kStatisticsRows, p.kv_len);
  const bool smooth = p.options.smooth_v;
  double sum[8] = {};
  // The chunk's first row takes part more than once, and stands for rows beyond the last.
  const T* const v = head_of<T>(p.v, head);
  Chunk<T> start[1];
  load_rows<1, 1>(start, v, p.v.stride_token, first, last, chunk * 8, p.head_dim, p.wide_v);
  Pair<T> low[4], high[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) low[i] = high[i] = as_pairs(start[0]).x[i];
  constexpr int kPasses = kDim == 256 ? 8 : 4;
  for (int row = first + lane_row; row < last; row += kPasses * kRows) {
    Chunk<T> raw[kPasses];
    load_rows<kPasses, kRows>(raw, v, p.v.stride_token, row, last, chunk * 8, p.head_dim, p.wide_v);
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      if (row + pass * kRows >= last) continue;
      const auto pairs = as_pairs(raw[pass]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        low[i] = __hmin2(low[i], pairs.x[i]);
        high[i] = __hmax2(high[i], pairs.x[i]);
      }
      if (smooth) {
#pragma unroll
        for (int i = 0; i < 8; ++i) sum[i] += static_cast<double>(to_float(raw[pass].x[i]));
      }
    }
  }
  // [head][chunk][low, high, sum][kDim] as doubles.
  double* const mine = part<double>(p, p.at.v_partial) + (head * p.chunks + index) * 3 * kDim;
  if (smooth) {
    add_up(s, sum, lane_row, chunk);
    if (threadIdx.x < kDim) mine[2 * kDim + threadIdx.x] = s.sums[0][threadIdx.x];
    __syncthreads();
  }
  float* const extremes = reinterpret_cast<float*>(s.sums);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    extremes[(lane_row * kDim + chunk * 8 + i) * 2] = to_float(i % 2 == 0 ? low[i / 2].x : low[i / 2].y);
    extremes[(lane_row * kDim + chunk * 8 + i) * 2 + 1] = to_float(i % 2 == 0 ? high[i / 2].x : high[i / 2].y);
  }
  __syncthreads();
  if (threadIdx.x < kDim) {
    float l = FLT_MAX;
    float h = -FLT_MAX;
    for (int r = 0; r < kRows; ++r) {
      l = fminf(l, extremes[(r * kDim + threadIdx.x) * 2]);
      h = fmaxf(h, extremes[(r * kDim + threadIdx.x) * 2 + 1]);
    }
    mine[threadIdx.x] = l;
    mine[kDim + threadIdx.x] = h;
  }
  const Progress progress = progress_of(p);
  if (!complete(progress.v_chunks + head, p.chunks)) return;
  if (threadIdx.x < kDim) {
    const double* const all = part<double>(p, p.at.v_partial) + head * p.chunks * 3 * kDim + threadIdx.x;
    double total = 0;
    float l = FLT_MAX;
    float h = -FLT_MAX;
    for (int i = 0; i < p.chunks; ++i) {
      l = fminf(l, static_cast<float>(all[i * 3 * kDim]));
      h = fmaxf(h, static_cast<float>(all[i * 3 * kDim + kDim]));
      if (smooth) total += all[i * 3 * kDim + 2 * kDim];
    }
    const float mean = smooth ? static_cast<float>(total / static_cast<double>(p.kv_len)) : 0.0F;
    // Subtracting the mean is monotonic, so the extremes of V' are those of V, smoothed.
    const float amax = fmaxf(fabsf(l - mean), fabsf(h - mean));
    part<float>(p, p.at.v_scale)[head * kDim + threadIdx.x] = amax > 0 ? fmaxf(amax / 448.0F, FLT_MIN) : 1.0F;
    part<float>(p, p.at.v_mean)[head * kDim + threadIdx.x] = mean;
  }
  publish(progress.v_ready + head);
}

template <int kDim>
struct ValuesShared {
  static constexpr int kRowBytes = 2 * kDim + 16;  ///< padding: 16-byte reads down a column touch all banks
  alignas(16) std::uint8_t raw[kTileKeys * kRowBytes];
  alignas(16) std::uint8_t image[kTileKeys * kDim];
  float4 channel[kDim];  ///< mean, scale, its inverse a little less and a little more
};

__device__ __forceinline__ unsigned e4m3_four(const float (&x)[4], float factor) {
  return e4m3_pair(x[0] * factor, x[1] * factor) | static_cast<unsigned>(e4m3_pair(x[2] * factor, x[3] * factor)) << 16;
}

/// Four quotients in E4M3 by IEEE division.
__device__ __noinline__ unsigned divide_e4m3(float x0, float x1, float x2, float x3, float scale) {
  return e4m3_pair(x0 / scale, x1 / scale) | static_cast<unsigned>(e4m3_pair(x2 / scale, x3 / scale)) << 16;
}

/// Codes of V for one key tile, transposed and with the keys exchanged as the kernel wants them.
template <int kDim, class T>
__device__ void v_codes(const PrepareParams& p, ValuesShared<kDim>& s, std::int64_t head, int tile) {
  constexpr int kChunks = kDim / 8;
  constexpr int kRows = kPrepareThreads / kChunks;
  constexpr int kPasses = kTileKeys / kRows;
  const int first = tile * kTileKeys;
  const int count = min(kTileKeys, p.kv_len - first);
  {
    const int row = threadIdx.x / kChunks;
    const int chunk = threadIdx.x % kChunks;
    Chunk<T> raw[kPasses];
    load_rows<kPasses, kRows>(raw, head_of<T>(p.v, head), p.v.stride_token, first + row, p.kv_len, chunk * 8,
                              p.head_dim, p.wide_v);
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      *reinterpret_cast<Chunk<T>*>(s.raw + (row + pass * kRows) * ValuesShared<kDim>::kRowBytes + chunk * 16) =
          raw[pass];
    }
  }
  await(progress_of(p).v_ready + head, 1);
  if (threadIdx.x < kDim) {
    // Written by another block while this kernel runs: not through the read-only cache.
    const Scale scale = with_inverse(__ldcg(part<float>(p, p.at.v_scale) + head * kDim + threadIdx.x));
    s.channel[threadIdx.x] = {__ldcg(part<float>(p, p.at.v_mean) + head * kDim + threadIdx.x), scale.scale, scale.below,
                              scale.above};
  }
  __syncthreads();
  // A thread takes four keys that stand side by side in V^T, and eight channels.
  const int quad = threadIdx.x % 32;
  const int key = quad / 4 * 16 + quad % 4 * 2;  // the others: + 1, + 8, + 9
  const auto real = [&](int j) { return key + j / 2 * 8 + j % 2 < count ? 0xFFU << 8 * j : 0U; };
  const unsigned mask = real(0) | real(1) | real(2) | real(3);
  for (int chunk = threadIdx.x / 32; chunk < kChunks; chunk += kPrepareThreads / 32) {
    Chunk<T> rows[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = key + j / 2 * 8 + j % 2;
      rows[j] = *reinterpret_cast<const Chunk<T>*>(s.raw + row * ValuesShared<kDim>::kRowBytes + chunk * 16);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int channel = chunk * 8 + i;
      const float4 c = s.channel[channel];
      float x[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) x[j] = to_float(rows[j].x[i]) - c.x;
      // Between these two lies the IEEE quotient; where they round alike there is no need to divide.
      unsigned word = e4m3_four(x, c.z);
      if (word != e4m3_four(x, c.w)) word = divide_e4m3(x[0], x[1], x[2], x[3], c.y);
      *reinterpret_cast<unsigned*>(s.image + v_offset(key, channel)) = word & mask;
    }
  }
  __syncthreads();
  auto* const to =
      reinterpret_cast<uint4*>(part<std::uint8_t>(p, p.at.v) + (head * p.k_tiles + tile) * (kTileKeys * kDim));
  const auto* const from = reinterpret_cast<const uint4*>(s.image);
  for (int i = threadIdx.x; i < kTileKeys * kDim / 16; i += kPrepareThreads) to[i] = from[i];
}

template <class T>
__device__ __forceinline__ void mma_16816(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                          std::uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

/// Blocks of queries whose dS is computed at a time.
inline constexpr int kDeltaRows = 32;

template <int kDim>
struct DeltaShared {
  static constexpr int kRowBytes = 2 * kDim + 16;              ///< padding: ldmatrix touches all banks
  alignas(16) std::uint8_t q_mean[2][kDeltaRows * kRowBytes];  ///< high and low halves
  float k_mean[kDim];
  float shift[kDeltaRows];
};

__device__ __forceinline__ void load_matrix(std::uint32_t (&a)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row))));
}

/// dS of one key tile for every block of every query head of the group. K is taken as captured: its 16-bit values are
/// exact operands. K' differs by its mean, which shifts a block's whole row of dS by a constant, and that is subtracted
/// so that dS stays as small as the variant means it (the softmax would cancel it).
template <int kDim, class T>
__device__ void delta_scores(const PrepareParams& p, DeltaShared<kDim>& s, std::int64_t kv, int tile) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int key = tile * kTileKeys + warp * 16;  // a warp's 16 keys, two columns of 8
  // B: K^T, kept in registers over all blocks. Thread (g, t) holds key g, channels 2t, 2t + 1 and 2t + 8, 2t + 9.
  std::uint32_t b[kDim / 16][2][2];
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int row = key + n * 8 + g;
    const T* const from = head_of<T>(p.k, kv) + min(row, p.kv_len - 1) * p.k.stride_token;
    const bool aligned = p.head_dim % 2 == 0 && reinterpret_cast<std::uintptr_t>(from) % 4 == 0;
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int c = k * 16 + half * 8 + 2 * t;
        if (aligned) {
          b[k][n][half] = c < p.head_dim ? *reinterpret_cast<const std::uint32_t*>(from + c) : 0;
        } else {
          T pair[2] = {c < p.head_dim ? from[c] : T(0.0F), c + 1 < p.head_dim ? from[c + 1] : T(0.0F)};
          b[k][n][half] = *reinterpret_cast<const std::uint32_t*>(pair);
        }
      }
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kDim; i += kPrepareThreads) {
    s.k_mean[i] = p.options.smooth_k ? __ldcg(part<float>(p, p.at.k_mean) + kv * kDim + i) : 0.0F;
  }
  const std::int64_t first_head = kv * p.group;
  const float factor = static_cast<float>(static_cast<double>(p.sm_scale) * 1.4426950408889634);
  const int rows = p.group * p.q_blocks;  // consecutive in q_mean and in delta_s
  const T* const q_mean = part<T>(p, p.at.q_mean) + first_head * p.q_blocks * 2 * kDim;
  float* const out = part<float>(p, p.at.delta_s) + first_head * p.q_blocks * p.k_tiles * kTileKeys;
  for (int first = 0; first < rows; first += kDeltaRows) {
    // Blocks that do not see this tile at all: nobody reads their dS.
    const int last_block = first % p.q_blocks + kDeltaRows - 1;
    if (p.is_causal && last_block < p.q_blocks && (last_block + 1) * kMeanRows + p.causal_shift <= tile * kTileKeys) {
      continue;
    }
    __syncthreads();
    constexpr int kChunks = kDim / 8;
    for (int i = threadIdx.x; i < kDeltaRows * 2 * kChunks; i += kPrepareThreads) {
      const int chunk = i % kChunks;
      const int level = i / kChunks % 2;
      const int row = i / kChunks / 2;
      const T* const from = q_mean + (static_cast<std::int64_t>(min(first + row, rows - 1)) * 2 + level) * kDim;
      *reinterpret_cast<uint4*>(s.q_mean[level] + row * DeltaShared<kDim>::kRowBytes + chunk * 16) =
          __ldcg(reinterpret_cast<const uint4*>(from) + chunk);
    }
    __syncthreads();
    {
      // q_mean . k_mean of each block: eight threads a row.
      static_assert(kPrepareThreads == 8 * kDeltaRows);
      const int row = threadIdx.x / 8;
      float sum = 0;
      for (int c = threadIdx.x % 8; c < kDim; c += 8) {
        const auto value = [&](int level) {
          return to_float(reinterpret_cast<const T*>(s.q_mean[level] + row * DeltaShared<kDim>::kRowBytes)[c]);
        };
        sum = fmaf(value(0) + value(1), s.k_mean[c], sum);
      }
      for (int step = 4; step > 0; step /= 2) sum += __shfl_xor_sync(~0U, sum, step);
      if (threadIdx.x % 8 == 0) s.shift[row] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kDeltaRows; m += 16) {
      float d[2][4] = {};
#pragma unroll
      for (int level = 1; level >= 0; --level) {  // the low halves first
#pragma unroll
        for (int k = 0; k < kDim / 16; ++k) {
          std::uint32_t a[4];
          load_matrix(a, s.q_mean[level] + (m + lane % 16) * DeltaShared<kDim>::kRowBytes + k * 32 + lane / 16 * 16);
          mma_16816<T>(d[0], a, b[k][0][0], b[k][0][1]);
          mma_16816<T>(d[1], a, b[k][1][0], b[k][1][1]);
        }
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = first + m + g + 8 * r;
        if (row >= rows) continue;
        const float shift = s.shift[m + g + 8 * r];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const float2 value = {(d[n][2 * r] - shift) * factor, (d[n][2 * r + 1] - shift) * factor};
          *reinterpret_cast<float2*>(out + static_cast<std::int64_t>(row) * p.k_tiles * kTileKeys + key + n * 8 +
                                     2 * t) = value;
        }
      }
    }
  }
}

}  // namespace sage2::cuda::sm90
