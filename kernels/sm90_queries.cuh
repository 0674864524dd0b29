#pragma once

#include "kernels/load.cuh"
#include "kernels/mma.cuh"
#include "kernels/sm90_codes.cuh"
#include "kernels/sm90_consume.cuh"
#include "kernels/sm90_values.cuh"

/// Codes of queries, made where they are used: three warps beside the producer quantise the queries of the next piece
/// of work while the warpgroups are at this one, so that the preparation neither reads Q nor writes codes of it.
namespace sage2::cuda::sm90 {

/// A warp's way through 16 rows: eight lanes a row, each with chunks c, c + 8, ... of eight channels, so that eight
/// lanes read 128 bytes side by side; four rows at a time. Codes lie where the rows were until the warpgroup is done
/// with those of the piece before.
template <class C, class T>
struct Segment {
  static constexpr int kChunks = C::kDim / 8;      ///< of a row
  static constexpr int kParts = kChunks / 8;       ///< chunks of a row and lane
  static constexpr int kSteps = kSegmentRows / 4;  ///< rows of a lane
  static constexpr int kRowBytes = C::kDim * 2;
  static constexpr int kStepBytes = 4 * kRowBytes;
  const AttentionParams& p;
  Shared<C>& s;
  int head;     ///< over batch and heads
  int in_head;  ///< first row in the head
  int index;    ///< of the segment in the piece of work
  int lane, c;
  std::uint8_t* rows;  ///< the segment's
  std::uint8_t* mine;  ///< this lane's first row
  float2* row_scale;   ///< of this lane's first row

  __device__ __forceinline__ Segment(const AttentionParams& params, Shared<C>& shared, const Work& w, int i, int lane_)
      : p(params),
        s(shared),
        head(w.head),
        in_head(w.row + i * kSegmentRows),
        index(i),
        lane(lane_),
        c(lane % 8),
        rows(s.queries[0] + i * (kSegmentRows * kRowBytes)),
        mine(rows + lane / 8 * kRowBytes),
        row_scale(s.row_scale[0] + i * kSegmentRows + lane / 8) {}

  /// Warpgroups whose rows all lie behind the end of the piece skip its tiles, if they can.
  [[nodiscard]] __device__ __forceinline__ bool used(const Work& w) const {
    return !C::kSkips || w.row + group() * kTileRows < w.end;
  }
  [[nodiscard]] __device__ __forceinline__ int group() const { return index / (kTileRows / kSegmentRows); }
  [[nodiscard]] __device__ __forceinline__ uint4 raw(int step, int part) const {
    return *reinterpret_cast<const uint4*>(mine + c * 16 + step * kStepBytes + part * 128);
  }
  [[nodiscard]] __device__ __forceinline__ const float* means() const {
    const std::int64_t block = static_cast<std::int64_t>(head) * p.q_blocks + min(in_head / kMeanRows, p.q_blocks - 1);
    return p.queries.mean + block * C::kDim;
  }
  /// The mean of this lane's channels; a zero without smooth Q.
  [[nodiscard]] __device__ __forceinline__ Eight mean(int part) const {
    if constexpr (!C::kSmoothQ) return {};
    const auto* const from = reinterpret_cast<const float4*>(means() + (c + 8 * part) * 8);
    const float4 a = from[0];
    const float4 b = from[1];
    return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
  }
  [[nodiscard]] __device__ __forceinline__ static Eight smoothed(const uint4& raw, const Eight& mean) {
    Eight x = to_floats<T>(raw);
    if constexpr (C::kSmoothQ) {
#pragma unroll
      for (int i = 0; i < 8; ++i) x.x[i] = x.x[i] - mean.x[i];
    }
    return x;
  }

  /// Starts the copy of the rows. Rows beyond the last, and channels beyond head_dim, become zeros.
  __device__ __forceinline__ void bring() const {
    constexpr int kRowsAtOnce = 32 / kChunks;
    const std::int64_t stride = p.queries.captured.stride_token;
    const int first = lane / kChunks;
    const int channel = lane % kChunks * 8;
    const T* from = head_of<T>(p.queries.captured, head) + (in_head + first) * stride + channel;
    const bool aligned = (reinterpret_cast<std::uintptr_t>(from) | static_cast<std::uintptr_t>(stride * 2)) % 16 == 0;
    const int channels = min(8, p.head_dim - channel);
    const int left = p.q_len - in_head;
    if (__all_sync(~0U, aligned && (channels == 8 || channels <= 0))) {
      const std::uint32_t to = shared_address(rows + first * kRowBytes) + channel * 2;
#pragma unroll
      for (int r = 0; r < kSegmentRows; r += kRowsAtOnce, from += kRowsAtOnce * stride) {
        ptx::cp_async_16_or_zeros(to + r * kRowBytes, from, first + r < left && channels > 0);
      }
    } else {
#pragma unroll 1
      for (int r = first; r < kSegmentRows; r += kRowsAtOnce, from += kRowsAtOnce * stride) {
        T* const to = reinterpret_cast<T*>(rows + r * kRowBytes) + channel;
#pragma unroll 1
        for (int i = 0; i < 8; ++i) to[i] = r < left && i < channels ? from[i] : T(0.0F);
      }
    }
  }

  /// Largest magnitudes of the rows; 0 of a row beyond the last.
  __device__ __forceinline__ void maxima() const {
    float amax[kSteps] = {};
#pragma unroll 1
    for (int part = 0; part < kParts; ++part) {
      const Eight of_channel = mean(part);
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        if constexpr (C::kSmoothQ) {
          amax[step] = fmaxf(amax[step], magnitude(smoothed(raw(step, part), of_channel)));
        } else {
          amax[step] = fmaxf(amax[step], magnitude<T>(raw(step, part)));
        }
      }
    }
    // Over the eight lanes of a row: two exchanges halve the rows that a lane answers for.
    static_assert(kSteps == 4);
    const auto exchange = [&](bool upper, float& low, float high, int distance) {
      const float mine = upper ? high : low;
      const float give = upper ? low : high;
      low = fmaxf(mine, __shfl_xor_sync(~0U, give, distance));
    };
    const bool second = (c & 4) != 0;
    const bool odd = (c & 2) != 0;
    exchange(second, amax[0], amax[2], 4);
    exchange(second, amax[1], amax[3], 4);
    exchange(odd, amax[0], amax[1], 2);
    const float of_row = fmaxf(amax[0], __shfl_xor_sync(~0U, amax[0], 1));
    const int step = (second ? 2 : 0) + (odd ? 1 : 0);
    float largest = in_head + lane / 8 + 4 * step < p.q_len ? of_row : 0.0F;
    if (c % 2 == 0) row_scale[4 * step].x = largest;
    if (p.queries.gran == QkGran::per_block) {
#pragma unroll
      for (int distance = 2; distance < 32; distance *= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(~0U, largest, distance));
      }
      if (lane == 0) s.segment_max[0][index] = largest;
    }
  }

  /// Scales of the rows and their inverses, from the maxima.
  __device__ __forceinline__ void scales() const {
    const bool has_row = lane < kSegmentRows;  // a lane a row; the others' numbers go nowhere
    float2& of_row = s.row_scale[0][index * kSegmentRows + lane % kSegmentRows];
    float amax = has_row ? of_row.x : 0.0F;
    if (p.queries.gran == QkGran::per_thread) {
      amax = fmaxf(amax, __shfl_xor_sync(~0U, amax, 8));
    } else if (p.queries.gran == QkGran::per_warp) {
#pragma unroll
      for (int distance = 1; distance < kSegmentRows; distance *= 2) {
        amax = fmaxf(amax, __shfl_xor_sync(~0U, amax, distance));
      }
    } else {
#pragma unroll
      for (const float of_segment : s.segment_max[group()]) amax = fmaxf(amax, of_segment);
    }
    const float scale = scale_of(amax, p.queries.gran == QkGran::per_thread, p.queries.top);
    if (has_row) of_row = {scale, rough_inverse(scale)};
  }

  /// Eight codes by division.
  [[nodiscard]] __device__ __forceinline__ uint2 divided(int step, int part, float scale) const {
    const bool half_away = p.queries.gran == QkGran::per_thread;
    const T* const from = reinterpret_cast<const T*>(mine + c * 16 + step * kStepBytes + part * 128);
    std::uint64_t out = 0;
#pragma unroll 1
    for (int i = 7; i >= 0; --i) {
      float x = to_float(from[i]);
      if constexpr (C::kSmoothQ) x = x - means()[(c + 8 * part) * 8 + i];
      const float shifted = divide(x, scale, half_away, p.queries.top);
      out = out << 8 | (C::kInt ? __float_as_uint(shifted) & 0xFFU : e4m3_pair(shifted - kMagic, 0));
    }
    return {static_cast<unsigned>(out), static_cast<unsigned>(out >> 32)};
  }

  /// Codes of a row go to its first half, in the order of the channels.
  __device__ __forceinline__ void codes() const {
#pragma unroll 1
    for (int part = 0; part < kParts; ++part) {
      const Eight of_channel = mean(part);
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const float2 of_row = row_scale[4 * step];
        unsigned unsure;
        uint2 out = encode(smoothed(raw(step, part), of_channel), bounds(of_row.x, of_row.y), !C::kInt, unsure);
        if (unsure != 0) out = divided(step, part, of_row.x);
        __syncwarp();  // the codes of part 0 come where others of the row have read
        *reinterpret_cast<uint2*>(mine + c * 8 + step * kStepBytes + part * 64) = out;
      }
    }
  }

  /// Hands codes and scales over.
  __device__ __forceinline__ void move() const {
    constexpr int kPieces = C::kDim / 16;      // of a row of codes
    constexpr int kRowsAtOnce = 32 / kPieces;  // 8, 4 or 2
    const int piece = lane % kPieces;
    const int first = index % (kTileRows / kSegmentRows) * kSegmentRows + lane / kPieces;
    const std::uint8_t* const from = rows + lane / kPieces * kRowBytes + piece * 16;
#pragma unroll
    for (int r = 0; r < kSegmentRows; r += kRowsAtOnce) {
      *reinterpret_cast<uint4*>(s.q[group()] + qk_offset(kTileRows, C::kDim, first + r, piece * 16)) =
          *reinterpret_cast<const uint4*>(from + r * kRowBytes);
    }
    const int row = index * kSegmentRows + lane;
    if (lane < kSegmentRows) s.q_scale[0][row] = s.row_scale[0][row].x;
  }
};

/// A quantising warp, `warp` of kQuantisers.
template <class C, class T>
__device__ __forceinline__ void quantize_queries(const AttentionParams& p, Shared<C>& s, const CUtensorMap& map,
                                                 int warp) {
  constexpr int kSegments = C::kConsumers * (kTileRows / kSegmentRows);
  RingPosition<2> work_at_;
  std::uint32_t q_parity = 0;
  ValueWarp<C, T> values{p, s, map, warp};
  // Where a scale is of more rows than a warp has, maxima are exchanged; twice, so that all have read them.
  const auto exchange = [&] {
    __syncwarp();
    if (p.queries.gran == QkGran::per_block) named_sync(kQuantiserBarrier, kQuantisers * 32);
  };
  for (;;) {
    s.work_full[work_at_.stage].wait(work_at_.parity);
    const int index = s.work[work_at_.stage];
    release(s.work_empty[work_at_.stage]);  // and no lane still moves codes when the next rows come
    work_at_.advance();
    if (index < 0) return;
    const Work w = work_at(p, C::kRows, index);
    const int lane = C::kMakesValues ? lane_now() : static_cast<int>(threadIdx.x) % 32;
    const auto each = [&](const auto& f) {
#pragma unroll 1
      for (int i = warp; i < kSegments; i += kQuantisers) {
        const Segment<C, T> segment(p, s, w, i, lane);
        if (segment.used(w)) f(segment);
      }
    };
    if (w.tiles > 0) {
      each([&](const auto& segment) { segment.bring(); });
      ptx::cp_async_commit();
      ptx::cp_async_wait<0>();
      __syncwarp();
      each([&](const auto& segment) { segment.maxima(); });
      exchange();
      each([&](const auto& segment) { segment.scales(); });
      exchange();
      each([&](const auto& segment) { segment.codes(); });
      __syncwarp();  // lanes move what others have written
#pragma unroll 1
      for (int i = warp; i < kSegments; i += kQuantisers) {
        const Segment<C, T> segment(p, s, w, i, lane);
        s.q_empty[segment.group()].wait(q_parity ^ 1);
        if (segment.used(w)) segment.move();
        // The tensor cores read what was written here. (One arrival a warp would do, but racecheck would not understand
        // it.)
        fence_before_bulk_copy();
        s.q_full[segment.group()].arrive();
      }
      q_parity ^= 1;
    }
    // While the warpgroups are at this piece.
    if constexpr (C::kMakesValues) {
      if (p.values.codes != nullptr) values.make(index);
    }
  }
}

}  // namespace sage2::cuda::sm90
