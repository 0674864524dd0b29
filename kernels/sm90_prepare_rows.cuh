#pragma once

#include "kernels/sm90_prepare_means.cuh"

/// Quantising jobs of Q and K: 128 rows, codes straight into tile images.
namespace sage2::cuda::sm90 {

/// Smallest and largest of each of eight channels.
template <class T>
struct Extremes {
  Pairs<T> low, high;
  __device__ __forceinline__ explicit Extremes(const Pairs<T>& x) : low(x), high(x) {}
  __device__ __forceinline__ void take(const Pairs<T>& x) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      low.x[i] = __hmin2(low.x[i], x.x[i]);
      high.x[i] = __hmax2(high.x[i], x.x[i]);
    }
  }
  /// The same of the lane `distance` further.
  __device__ __forceinline__ void take_lane(int distance) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      low.x[i] = __hmin2(low.x[i], __shfl_xor_sync(~0U, low.x[i], distance));
      high.x[i] = __hmax2(high.x[i], __shfl_xor_sync(~0U, high.x[i], distance));
    }
  }
};

/// Not inlined: the code of all jobs has to fit into the instruction cache.
__device__ __noinline__ Eight divide_rarely(Eight x, float scale, bool half_away, float top) {
#pragma unroll
  for (int i = 0; i < 8; ++i) x.x[i] = divide(x.x[i], scale, half_away, top);
  return x;
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

/// Quantises the rows of a tile of Q (kIsQ) or K. With smooth Q a tile of Q has its own mean subtracted, which is kept
/// for dS, and the rows of K stay in the stage, for dS too.
template <int kDim, class T, bool kIsQ, bool kSmoothQ>
__device__ __forceinline__ void quantize_rows(Ring<kDim, T>& ring, const Tile& tile) {
  using S = PrepareShared<kDim>;
  constexpr bool kSubtract = !kIsQ || kSmoothQ;  // the mean of K, which may be zero, or of the tile
  const PrepareParams& p = ring.p;
  S& s = ring.s;
  const std::int64_t head = tile.head;
  const int first = tile.first;
  const int count = tile.count;
  const int chunk = threadIdx.x % S::kChunks;
  const int lane_row = threadIdx.x / S::kChunks;
  const bool half_away = p.options.gran == QkGran::per_thread;
  const std::uint32_t from = kept(shared_address(ring.mine()));
  float* const row_maxima = s.row_max[ring.at.stage()];
  Scale* const row_scales = s.row_scale[ring.at.stage()];
  const auto raw = [&](int pass) { return load_shared(from + pass * S::kPassBytes); };

  float subtract[8];
  if constexpr (kSubtract) {
    if constexpr (kIsQ) {
      const ColumnSums<kDim, T> sums(ring);
      workers_sync();  // the sums before these have been read
      sums.store(s.block_sums[0]);
      workers_sync();
      if (threadIdx.x < kDim) {
        const float m = mean_of<kDim, T>(p, s.block_sums[0], head, first, count, threadIdx.x);
        s.mean[ring.at.stage()][threadIdx.x] = m;
        const float mean = store_mean<kDim, T>(p, head, first, threadIdx.x, m);
        begin_shift(s, 0, threadIdx.x, mean * ring.channels()[threadIdx.x].mean);
      }
      workers_sync();
      if (threadIdx.x == 0) mean_shift<kDim>(p, head, first) = end_shift(s, 0);
#pragma unroll
      for (int i = 0; i < 8; ++i) subtract[i] = s.mean[ring.at.stage()][chunk * 8 + i];
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) subtract[i] = ring.channels()[chunk * 8 + i].mean;
    }
  }
  const auto smooth = [&](const uint4& bits) {
    Eight x = to_floats<T>(bits);
    if constexpr (kSubtract) {
#pragma unroll
      for (int i = 0; i < 8; ++i) x.x[i] = x.x[i] - subtract[i];
    }
    return x;
  };
  const auto smoothed = [&](int pass) { return smooth(raw(pass)); };
  Scale scale;  // of K: a thread's rows share one
  if constexpr (kIsQ) {
    float row_max[S::kPasses];  // this thread's chunk of each of its rows
#pragma unroll
    for (int pass = 0; pass < S::kPasses; ++pass) {
      if constexpr (kSubtract) {
        row_max[pass] = pass * S::kRows + lane_row < count ? magnitude(smoothed(pass)) : 0.0F;
      } else {
        row_max[pass] = magnitude<T>(raw(pass));
      }
    }
    // Maxima of several rows over the threads of a row: each exchange halves the rows that a thread answers for.
    int held = 0;
#pragma unroll
    for (int distance = S::kChunks / 2, n = S::kPasses; distance > 0; distance /= 2) {
      if (n > 1) {
        n /= 2;
        const bool upper = (chunk & distance) != 0;
#pragma unroll
        for (int i = 0; i < n; ++i) {
          const float mine = upper ? row_max[i + n] : row_max[i];
          const float give = upper ? row_max[i] : row_max[i + n];
          row_max[i] = fmaxf(mine, __shfl_xor_sync(~0U, give, distance));
        }
        held += upper ? n : 0;
      } else {
        row_max[0] = fmaxf(row_max[0], __shfl_xor_sync(~0U, row_max[0], distance));
      }
    }
    constexpr int kSharers = S::kChunks > S::kPasses ? S::kChunks / S::kPasses : 1;
    static_assert(S::kPasses <= S::kChunks);
    if (chunk % kSharers == 0) row_maxima[held * S::kRows + lane_row] = row_max[0];
    workers_sync();
    if (threadIdx.x < query_groups(p.options.gran)) {
      const auto g = query_group(p.options.gran, threadIdx.x);
      float amax = 0;
      for (int k = 0; k < g.count; ++k) amax = fmaxf(amax, row_maxima[g.first + g.step * k]);
      const Scale of_group = with_inverse(scale_of(amax, half_away, p.top));
      for (int k = 0; k < g.count; ++k) row_scales[g.first + g.step * k] = of_group;
    }
    workers_sync();
    if constexpr (kSubtract) {
      if (threadIdx.x == kWorkers - 32) count_in_order(progress_of(p).q_blocks + tile.head / p.group, 1);
    }
    const int row = first + threadIdx.x;
    if (threadIdx.x < kJobRows && row < p.q_tiles * kTileRows) {
      part<float>(p, p.at.q_scale)[head * p.q_tiles * kTileRows + row] =
          threadIdx.x < count ? row_scales[threadIdx.x].scale : 0.0F;
    }
  } else {
    // Keys 8i + 2t and 8i + 2t + 1 share a scale, and a thread's rows are a multiple of 8 apart.
    // Subtracting the mean is monotonic, so the extremes of K' are those of K, smoothed.
    Extremes<T> of(as_pairs<T>(raw(0)));
    // With scales per thread a warp shares each of its scales with one other, and a look at that one's rows, too, costs
    // less than waiting for it. (With 64 columns a warp has rows of two scales, which it shares with three others.)
    constexpr int kOthers = kDim == 128 ? 8 : 1;  // from a row to one of the other warp's
    const bool alone = kDim >= 128 && half_away && count == kJobRows;
    if (alone) {
      const std::uint32_t others = shared_address(ring.rows() + raw_offset(lane_row ^ kOthers, chunk));
      of.take(as_pairs<T>(load_shared(others)));
#pragma unroll 4
      for (int pass = 1; pass < S::kPasses; ++pass) {
        of.take(as_pairs<T>(raw(pass)));
        of.take(as_pairs<T>(load_shared(others + pass * S::kPassBytes)));
      }
    } else if (count == kJobRows) {
#pragma unroll 4
      for (int pass = 1; pass < S::kPasses; ++pass) of.take(as_pairs<T>(raw(pass)));
    } else {
#pragma unroll 1
      for (int pass = 1; pass * S::kRows + lane_row < count; ++pass) of.take(as_pairs<T>(raw(pass)));
    }
    const Eight low = to_floats<T>(reinterpret_cast<const uint4&>(of.low));
    const Eight high = to_floats<T>(reinterpret_cast<const uint4&>(of.high));
    float amax = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      amax = fmaxf(amax, fmaxf(fabsf(low.x[i] - subtract[i]), fabsf(high.x[i] - subtract[i])));
    }
    if (lane_row >= count) amax = 0;  // none of the rows is this thread's
    if (alone) {
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) {
        amax = fmaxf(amax, __shfl_xor_sync(~0U, amax, distance));
      }
    } else {
#pragma unroll
      for (int distance = S::kChunks / 2; distance > 0; distance /= 2) {
        amax = fmaxf(amax, __shfl_xor_sync(~0U, amax, distance));
      }
      if (chunk == 0) row_maxima[lane_row] = amax;
      workers_sync();
      const auto take_two = [&](int row) {
        const float2 two = *reinterpret_cast<const float2*>(&row_maxima[row]);
        amax = fmaxf(amax, fmaxf(two.x, two.y));
      };
      if (half_away) {
#pragma unroll
        for (int row = 0; row < S::kRows; row += 8) take_two(row + lane_row % 8 / 2 * 2);
      } else {
#pragma unroll
        for (int row = 0; row < S::kRows; row += 2) take_two(row);
      }
    }
    scale = with_inverse(scale_of(amax, half_away, p.top));
    if (chunk == 0 && lane_row < 8 && lane_row % 2 == 0) {
      part<float>(p, p.at.k_scale)[(head * p.k_tiles + first / kTileKeys) * 4 + lane_row / 2] = scale.scale;
    }
  }

  constexpr int kTile = kIsQ ? kTileRows : kTileKeys;
  std::uint8_t* const image = kept(part<std::uint8_t>(p, kIsQ ? p.at.q : p.at.k) +
                                   (head * (kIsQ ? p.q_tiles : p.k_tiles) + first / kTile) * (kTile * kDim) +
                                   qk_offset(kTile, kDim, lane_row, chunk * 8));
  // Rows of a thread are a multiple of 8 apart, so the exchange of chunks is the same for all of them.
  const auto place = [&](int pass) {
    constexpr int kStep = kDim == 64 ? 64 : 128;
    constexpr int kHalf = kDim == 256 ? kTile * 128 : 0;  // an image is two of 128 channels
    return image + pass * S::kRows * kStep + (kIsQ ? pass * S::kRows / kTile * kHalf : 0);
  };
  const int rows = kIsQ ? p.q_tiles * kTileRows - first : kTileKeys;  // that have a place in the image
  const int passes = min(S::kPasses, rows / S::kRows);
  static_assert(S::kPasses % 2 == 0 && kTileRows / S::kRows % 2 == 0);
  unsigned redo = 0;  // a bit for each pass whose codes need a division, the last two passes lowest
  // Not unrolled further: jobs of all kinds run side by side, and their code has to fit into the instruction cache.
#pragma unroll 1
  for (int pass = 0; pass < passes; pass += 2) {
    const uint4 bits[2] = {raw(pass), raw(pass + 1)};
    redo <<= 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (kIsQ) scale = row_scales[(pass + i) * S::kRows + lane_row];
      unsigned unsure;
      // Streaming, here and for V: codes must not drive out of L2 what is to be looked at again.
      store_streaming(place(pass + i), encode(smooth(bits[i]), scale, p.options.e4m3_codes, unsure));
      if (unsure != 0) redo |= 1U << i;
    }
  }
  while (redo != 0) {
    const int bit = __ffs(static_cast<int>(redo)) - 1;
    redo &= redo - 1;
    const int pass = passes - 2 - (bit & ~1) + bit % 2;
    if constexpr (kIsQ) scale = row_scales[pass * S::kRows + lane_row];
    store_streaming(place(pass),
                    pack(divide_rarely(smoothed(pass), scale.scale, half_away, p.top), p.options.e4m3_codes));
  }
  if (count < kJobRows) {
    for (int pass = 0; pass < passes; ++pass) {
      if (pass * S::kRows + lane_row >= count) store_streaming(place(pass), {0, 0});
    }
  }
  if constexpr (kIsQ || !kSmoothQ) ring.release();
}

}  // namespace sage2::cuda::sm90
