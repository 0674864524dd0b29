#pragma once

#include <cfloat>

#include "kernels/sm90_prepare_rows.cuh"

/// Statistics of K and V, and codes of V.
namespace sage2::cuda::sm90 {

/// What all chunks of a head say about a channel, for the last job: worker `number` of kSharers takes every so manieth
/// chunk. Codes wait for this, so all workers share it, and each has eight loads under way.
template <int kDim>
struct Share {
  static constexpr int kSharers = kWorkers / kDim;
  int channel = static_cast<int>(threadIdx.x) % kDim;
  int number = static_cast<int>(threadIdx.x) / kDim;

  /// X: a double or two floats; from: of the channel, in the first chunk; stride: to the next chunk.
  template <class X, class F>
  __device__ __forceinline__ void take(const X* from, int stride, int chunks, const F& f) const {
    constexpr int kAtOnce = 8;
#pragma unroll 1
    for (int begin = number; begin < chunks; begin += kAtOnce * kSharers) {
      X x[kAtOnce];
      // No branch between the loads: a chunk beyond the last is that one again.
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) x[i] = __ldcg(from + min(begin + i * kSharers, chunks - 1) * stride);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (begin + i * kSharers < chunks) f(x[i]);
      }
    }
  }
};

/// Sums of K's channels over a chunk of tokens; the last chunk of a head turns them into the mean.
template <int kDim, class T>
__device__ void k_statistics(Ring<kDim, T>& ring, Tile tile) {
  using S = PrepareShared<kDim>;
  const PrepareParams& p = ring.p;
  const int chunk = threadIdx.x % S::kChunks;
  const std::int64_t head = tile.head;
  const int index = tile.first / p.statistics_rows;
  const int end = min((index + 1) * p.statistics_rows, p.kv_len);
  double sum[8] = {};
  for (;;) {
    sum_rows(ring, sum);
    ring.release();
    if (tile.first + kJobRows >= end) break;
    tile = ring.take();
  }
  double total_of_chunk = add_up<kDim>(ring.s, sum, chunk);
  if (!(fabs(total_of_chunk) <= DBL_MAX)) {
    const int first = index * p.statistics_rows;
    total_of_chunk = sum_slowly<T>(p.k, head, first, end - first, threadIdx.x);
  }
  double* const sums = part<double>(p, p.at.k_sums) + head * p.chunks * kDim;
  if (threadIdx.x < kDim) sums[index * kDim + threadIdx.x] = total_of_chunk;
  const Progress progress = progress_of(p);
  if (!complete(progress.k_chunks + head, p.chunks, ring.s.last)) return;
  const Share<kDim> mine;
  double total = 0;
  mine.take(sums + mine.channel, kDim, p.chunks, [&](double x) { total += x; });
  ring.s.sums[mine.number][mine.channel] = total;
  workers_sync();
  if (threadIdx.x < kDim) {
    for (int i = 1; i < mine.kSharers; ++i) total += ring.s.sums[i][threadIdx.x];
    const float mean = static_cast<float>(total / static_cast<double>(p.kv_len));
    // The official kernels store the mean in the tensor's own format.
    part<float>(p, p.at.k_mean)[head * kDim + threadIdx.x] = round_like<T>(mean);
  }
  publish(progress.k_ready + head);
}

/// Extremes (and with smooth V sums) of V's channels over a chunk; the last chunk of a head makes scales and mean.
template <int kDim, class T>
__device__ void v_statistics(Ring<kDim, T>& ring, Tile tile) {
  using S = PrepareShared<kDim>;
  const PrepareParams& p = ring.p;
  S& s = ring.s;
  const int chunk = threadIdx.x % S::kChunks;
  const int lane_row = threadIdx.x / S::kChunks;
  const std::int64_t head = tile.head;
  const int index = tile.first / p.statistics_rows;
  const int end = min((index + 1) * p.statistics_rows, p.kv_len);
  const bool smooth = p.options.smooth_v;
  double sum[8] = {};
  // The chunk's first row takes part more than once.
  Extremes<T> of(as_pairs<T>(*reinterpret_cast<const uint4*>(ring.rows() + raw_offset(0, chunk))));
  for (;;) {
    const std::uint8_t* const from = ring.mine();
    const auto raw = [&](int pass) { return *reinterpret_cast<const uint4*>(from + pass * S::kPassBytes); };
    if (tile.count == kJobRows && !smooth) {
#pragma unroll 4
      for (int pass = 0; pass < S::kPasses; ++pass) of.take(as_pairs<T>(raw(pass)));
    } else {
#pragma unroll 1
      for (int pass = 0; pass * S::kRows + lane_row < tile.count; ++pass) {
        of.take(as_pairs<T>(raw(pass)));
        if (smooth) {
          const Eight x = to_floats<T>(raw(pass));
#pragma unroll
          for (int i = 0; i < 8; ++i) sum[i] += static_cast<double>(x.x[i]);
        }
      }
    }
    ring.release();
    if (tile.first + kJobRows >= end) break;
    tile = ring.take();
  }
  // [head][chunk]{[kDim] low and high, [kDim] sum}
  double* const all = part<double>(p, p.at.v_partial) + head * p.chunks * 2 * kDim;
  double* const mine = all + index * 2 * kDim + threadIdx.x;
  if (smooth) {
    const double total = add_up<kDim>(s, sum, chunk);
    if (threadIdx.x < kDim) mine[kDim] = total;
  }
#pragma unroll
  for (int step = 16; step >= S::kChunks; step /= 2) of.take_lane(step);
  workers_sync();  // the sums before have been read
  if (threadIdx.x % 32 < S::kChunks) {
    s.extremes[0][threadIdx.x / 32][chunk] = *reinterpret_cast<const uint4*>(&of.low);
    s.extremes[1][threadIdx.x / 32][chunk] = *reinterpret_cast<const uint4*>(&of.high);
  }
  workers_sync();
  if (threadIdx.x < kDim) {
    float l = FLT_MAX;
    float h = -FLT_MAX;
#pragma unroll
    for (int warp = 0; warp < kWorkers / 32; ++warp) {
      l = fminf(l, to_float(reinterpret_cast<const T*>(s.extremes[0][warp])[threadIdx.x]));
      h = fmaxf(h, to_float(reinterpret_cast<const T*>(s.extremes[1][warp])[threadIdx.x]));
    }
    *reinterpret_cast<float2*>(mine) = {l, h};
  }
  const Progress progress = progress_of(p);
  if (!complete(progress.v_chunks + head, p.chunks, s.last)) return;
  const Share<kDim> share;
  double total = 0;
  float l = FLT_MAX;
  float h = -FLT_MAX;
  share.take(reinterpret_cast<const float2*>(all) + share.channel, 2 * kDim, p.chunks, [&](const float2& of_chunk) {
    l = fminf(l, of_chunk.x);
    h = fmaxf(h, of_chunk.y);
  });
  if (smooth) share.take(all + kDim + share.channel, 2 * kDim, p.chunks, [&](double x) { total += x; });
  auto* const ranges = reinterpret_cast<float2(*)[kDim]>(s.sums);  // and behind them the sums
  ranges[share.number][share.channel] = {l, h};
  s.sums[share.kSharers + share.number][share.channel] = total;
  workers_sync();
  if (threadIdx.x < kDim) {
    for (int i = 1; i < share.kSharers; ++i) {
      l = fminf(l, ranges[i][threadIdx.x].x);
      h = fmaxf(h, ranges[i][threadIdx.x].y);
      total += s.sums[share.kSharers + i][threadIdx.x];
    }
    const float mean = smooth ? static_cast<float>(total / static_cast<double>(p.kv_len)) : 0.0F;
    // Subtracting the mean is monotonic, so the extremes of V' are those of V, smoothed.
    const float amax = fmaxf(fabsf(l - mean), fabsf(h - mean));
    part<float>(p, p.at.v_scale)[head * kDim + threadIdx.x] = amax > 0 ? fmaxf(amax / 448.0F, FLT_MIN) : 1.0F;
    part<float>(p, p.at.v_mean)[head * kDim + threadIdx.x] = mean;
  }
  publish(progress.v_ready + head);
}

/// Four quotients in E4M3 by IEEE division.
__device__ __noinline__ unsigned divide_e4m3(float x0, float x1, float x2, float x3, float scale) {
  return e4m3_pair(x0 / scale, x1 / scale) | static_cast<unsigned>(e4m3_pair(x2 / scale, x3 / scale)) << 16;
}

/// x / scale by the steps that IEEE division is compiled to where no operand is extreme (but for the sign of a zero). V
/// is full of ties of E4M3, which the quotient's last bit decides.
__device__ __forceinline__ float quotient(float x, const Channel& c) {
  const float q = x * c.inverse;
  return fmaf(c.inverse, fmaf(-c.scale, q, x), q);
}

/// Codes of V for one key tile, transposed and with the keys exchanged as the kernel wants them.
template <int kDim, class T>
__device__ void v_codes(Ring<kDim, T>& ring, const Tile& tile) {
  using S = PrepareShared<kDim>;
  const PrepareParams& p = ring.p;
  // A thread takes four keys that stand side by side in V^T, and eight channels. A warp takes 64 keys and two chunks of
  // channels: it reads without bank conflicts, and writes 64 bytes of two rows of V^T at a time.
  const int lane = threadIdx.x % 32;
  std::uint8_t* const image =
      part<std::uint8_t>(p, p.at.v) +
      (static_cast<std::int64_t>(tile.head) * p.k_tiles + tile.first / kTileKeys) * (kTileKeys * kDim);
#pragma unroll 1
  for (int item = threadIdx.x / 32; item < S::kChunks; item += kWorkers / 32) {
    const int key = item % 2 * 64 + lane / 8 * 16 + lane % 4 * 2;  // the others: + 1, + 8, + 9
    const int chunk = item / 2 * 2 + lane / 4 % 2;
    Eight rows[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      rows[j] = to_floats<T>(*reinterpret_cast<const uint4*>(ring.rows() + raw_offset(key + j / 2 * 8 + j % 2, chunk)));
    }
    std::uint8_t* const to = image + v_offset(key, chunk * 8);
    bool plain = tile.count == kJobRows;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const Channel c = ring.channels()[chunk * 8 + i];
      plain = plain && c.inverse != 0;
      float x[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) x[j] = quotient(rows[j].x[i] - c.mean, c);
      store_further(to, i, e4m3_pair(x[0], x[1]) | static_cast<unsigned>(e4m3_pair(x[2], x[3])) << 16);
    }
    if (plain) continue;
    // Channels that must be divided by, and keys beyond the last, once more.
    const auto real = [&](int j) { return key + j / 2 * 8 + j % 2 < tile.count ? 0xFFU << 8 * j : 0U; };
    const unsigned mask = real(0) | real(1) | real(2) | real(3);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const Channel c = ring.channels()[chunk * 8 + i];
      const unsigned word = divide_e4m3(rows[0].x[i] - c.mean, rows[1].x[i] - c.mean, rows[2].x[i] - c.mean,
                                        rows[3].x[i] - c.mean, c.scale);
      store_further(to, i, word & mask);
    }
  }
  ring.release();
}

}  // namespace sage2::cuda::sm90
