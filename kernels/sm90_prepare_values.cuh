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
  double sum[8] = {};
#pragma unroll 4
  for (int row = first + lane_row; row < last; row += kRows) {
    const auto raw = load_chunk(token<T>(p.k, head, row), chunk * 8, p.head_dim);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] += static_cast<double>(to_float(raw.x[i]));
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
  float low[8], high[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    low[i] = FLT_MAX;
    high[i] = -FLT_MAX;
  }
#pragma unroll 4
  for (int row = first + lane_row; row < last; row += kRows) {
    const auto raw = load_chunk(token<T>(p.v, head, row), chunk * 8, p.head_dim);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float x = to_float(raw.x[i]);
      low[i] = fminf(low[i], x);
      high[i] = fmaxf(high[i], x);
      if (smooth) sum[i] += static_cast<double>(x);
    }
  }
  // [head][chunk][low, high, sum][kDim] as doubles.
  double* const mine = part<double>(p, p.at.v_partial) + (head * p.chunks + index) * 3 * kDim;
  add_up(s, sum, lane_row, chunk);
  if (threadIdx.x < kDim) mine[2 * kDim + threadIdx.x] = s.sums[0][threadIdx.x];
  __syncthreads();
  float* const extremes = reinterpret_cast<float*>(s.sums);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    extremes[(lane_row * kDim + chunk * 8 + i) * 2] = low[i];
    extremes[(lane_row * kDim + chunk * 8 + i) * 2 + 1] = high[i];
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
      total += all[i * 3 * kDim + 2 * kDim];
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
  float scale[kDim], mean[kDim];
};

/// Codes of V for one key tile, transposed and with the keys exchanged as the kernel wants them.
template <int kDim, class T>
__device__ void v_codes(const PrepareParams& p, ValuesShared<kDim>& s, std::int64_t head, int tile) {
  constexpr int kChunks = kDim / 8;
  const int first = tile * kTileKeys;
  const int count = min(kTileKeys, p.kv_len - first);
  for (int i = threadIdx.x; i < kTileKeys * kChunks; i += kPrepareThreads) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    Chunk<T> raw{};
    if (row < count) raw = load_chunk(token<T>(p.v, head, first + row), chunk * 8, p.head_dim);
    *reinterpret_cast<Chunk<T>*>(s.raw + row * ValuesShared<kDim>::kRowBytes + chunk * 16) = raw;
  }
  await(progress_of(p).v_ready + head, 1);
  if (threadIdx.x < kDim) {
    // Written by another block while this kernel runs: not through the read-only cache.
    s.scale[threadIdx.x] = __ldcg(part<float>(p, p.at.v_scale) + head * kDim + threadIdx.x);
    s.mean[threadIdx.x] = __ldcg(part<float>(p, p.at.v_mean) + head * kDim + threadIdx.x);
  }
  __syncthreads();
  // A thread takes four keys that stand side by side in V^T, and eight channels.
  const int quad = threadIdx.x % 32;
  const int key = quad / 4 * 16 + quad % 4 * 2;  // the others: + 1, + 8, + 9
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
      const float scale = s.scale[channel];
      const float mean = s.mean[channel];
      float y[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool real = key + j / 2 * 8 + j % 2 < count;
        y[j] = real ? (to_float(rows[j].x[i]) - mean) / scale : 0.0F;
      }
      const unsigned word = e4m3_pair(y[0], y[1]) | static_cast<unsigned>(e4m3_pair(y[2], y[3])) << 16;
      *reinterpret_cast<unsigned*>(s.image + v_offset(key, channel)) = word;
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

/// dS of one key tile for every block of every query head of the group. K is taken as captured: its 16-bit values are
/// exact operands. K' differs by its mean, which shifts a block's whole row of dS by a constant, and that is subtracted
/// so that dS stays as small as the variant means it (the softmax would cancel it).
template <int kDim, class T>
__device__ void delta_scores(const PrepareParams& p, std::int64_t kv, int tile) {
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
    const T* const from = token<T>(p.k, kv, min(row, p.kv_len - 1));
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int c = k * 16 + half * 8 + 2 * t;
        T pair[2] = {c < p.head_dim ? from[c] : T(0.0F), c + 1 < p.head_dim ? from[c + 1] : T(0.0F)};
        b[k][n][half] = *reinterpret_cast<const std::uint32_t*>(pair);
      }
    }
  }
  const float* const mean = part<float>(p, p.at.k_mean) + kv * kDim;
  const std::int64_t first_head = kv * p.group;
  const float factor = static_cast<float>(static_cast<double>(p.sm_scale) * 1.4426950408889634);
  const int rows = p.group * p.q_blocks;  // consecutive in q_mean and in delta_s
  const T* const q_mean = part<T>(p, p.at.q_mean) + first_head * p.q_blocks * 2 * kDim;
  float* const out = part<float>(p, p.at.delta_s) + first_head * p.q_blocks * p.k_tiles * kTileKeys;
  for (int first = 0; first < rows; first += 16) {
    float d[2][4] = {};
    float shift[2] = {0, 0};
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      float m[4] = {};
      if (p.options.smooth_k) {
        const float2 m0 = __ldcg(reinterpret_cast<const float2*>(mean + k * 16 + 2 * t));
        const float2 m1 = __ldcg(reinterpret_cast<const float2*>(mean + k * 16 + 8 + 2 * t));
        m[0] = m0.x, m[1] = m0.y, m[2] = m1.x, m[3] = m1.y;
      }
#pragma unroll
      for (int level = 1; level >= 0; --level) {  // the low halves first
        // a0: row g, channels 2t, 2t + 1; a1: row g + 8; a2, a3: channels 8 further.
        std::uint32_t a[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int row = min(first + g + j % 2 * 8, rows - 1);
          a[j] = __ldcg(reinterpret_cast<const unsigned*>(q_mean + (static_cast<std::int64_t>(row) * 2 + level) * kDim +
                                                          k * 16 + j / 2 * 8 + 2 * t));
          const T* const pair = reinterpret_cast<const T*>(&a[j]);
          shift[j % 2] = fmaf(to_float(pair[0]), m[j / 2 * 2], shift[j % 2]);
          shift[j % 2] = fmaf(to_float(pair[1]), m[j / 2 * 2 + 1], shift[j % 2]);
        }
        mma_16816<T>(d[0], a, b[k][0][0], b[k][0][1]);
        mma_16816<T>(d[1], a, b[k][1][0], b[k][1][1]);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      shift[r] += __shfl_xor_sync(~0U, shift[r], 1);
      shift[r] += __shfl_xor_sync(~0U, shift[r], 2);
      const int row = first + g + 8 * r;
      if (row >= rows) continue;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float2 value = {(d[n][2 * r] - shift[r]) * factor, (d[n][2 * r + 1] - shift[r]) * factor};
        *reinterpret_cast<float2*>(out + static_cast<std::int64_t>(row) * p.k_tiles * kTileKeys + key + n * 8 + 2 * t) =
            value;
      }
    }
  }
}

}  // namespace sage2::cuda::sm90
