#pragma once

#include "kernels/load.cuh"
#include "kernels/sm90_codes.cuh"
#include "kernels/sm90_consume.cuh"
#include "kernels/sm90_tensor_map.hpp"

/// Codes of V, made by the warps that quantise queries: while a group of heads is worked on, those of a later one, so
/// that the preparation looks at V only once. Only means and extremes, of all tokens, must be known before.
namespace sage2::cuda::sm90 {

/// The lane, as something new: what follows from it is computed where it is needed and not kept, in local memory, since
/// the kernel's beginning.
[[nodiscard]] __device__ __forceinline__ int lane_now() {
  int lane = static_cast<int>(threadIdx.x) % 32;
  asm volatile("" : "+r"(lane));
  return lane;
}

/// One of eight numbers.
template <class T>
__device__ __forceinline__ float element(const uint4& raw, int i) {
  const unsigned word = i < 4 ? (i < 2 ? raw.x : raw.y) : (i < 6 ? raw.z : raw.w);
  if constexpr (std::is_same_v<T, __half>) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(i % 2 == 0 ? word & 0xFFFFU : word >> 16)));
  } else {
    return __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xFFFF0000U);
  }
}

/// An infinite scale makes zeros of what is finite and no numbers of the rest, as the division does.
__device__ __forceinline__ ValueChannel value_channel(float mean, float scale) {
  float factor = 1;
  if (scale < 0x1p-80F) factor = 0x1p100F;
  if (scale > 0x1p80F) factor = scale <= FLT_MAX ? 0x1p-100F : 0.0F;
  const float by = factor == 0 ? 1.0F : scale * factor;
  const float inverse = inverse_of(by);
  return {inverse, inverse * fmaf(-by, inverse, 1.0F), factor, -mean * factor};
}

/// What a quantising warp, `warp` of kQuantisers, does of V. Rows come into the warp's own parts of the memory for
/// queries, 16 keys each, which is free while the warpgroups are at these. (With kChannelsBehindRows what is known of
/// channels lies in the last parts, whichever warp's they are.)
template <class C, class T>
struct ValueWarp {
  static constexpr int kPart = kSegmentRows * C::kDim * 2;  ///< bytes
  static constexpr int kUnitKeys = unit_keys(C::kDim);
  static constexpr int kParts = kUnitKeys / kSegmentRows;  ///< of a unit, 4 or 2
  static constexpr int kUsed = kParts * kQuantisers;       ///< of all parts
  static constexpr int kSpare = C::kConsumers * (kTileRows / kSegmentRows) - kUsed;
  static_assert(!C::kMakesValues || kSpare >= 0);
  static_assert(!C::kMakesValues || !C::kChannelsBehindRows ||
                kSpare * kPart >= kQuantisers * C::kDim * static_cast<int>(sizeof(ValueChannel)));
  const AttentionParams& p;
  Shared<C>& s;
  const CUtensorMap& rows;
  int warp;
  std::uint32_t parity = 0;

  [[nodiscard]] __device__ __forceinline__ std::uint8_t* part(int i) const {
    return s.queries[0] + (warp + i * kQuantisers) * kPart;
  }
  /// What is known of the head's channels.
  [[nodiscard]] __device__ __forceinline__ ValueChannel* channels() const {
    if constexpr (C::kChannelsBehindRows) {
      constexpr int kOfGroup = 2 * C::kQBytes;
      auto* const spare = s.queries[kUsed * kPart / kOfGroup] + kUsed * kPart % kOfGroup;
      return reinterpret_cast<ValueChannel*>(spare) + warp * C::kDim;
    } else {
      return s.channel[warp];
    }
  }
  /// Starts the copies of a unit's rows; what lies beyond the last key or channel becomes zeros. The whole warp, which
  /// has read what was there.
  __device__ __forceinline__ void bring(int head, int unit) const {
    fence_before_bulk_copy();
    __syncwarp();
    if (lane_now() != 0) return;
    const std::uint64_t policy = cache_policy(true);
    const int batch = head / p.kv_heads;
    s.values_full[warp].expect(kUnitKeys * C::kDim * 2);
#pragma unroll 1
    for (int i = 0; i < kParts; ++i) {
      copy_rows<C::kDim, kSegmentRows>(part(i), rows, unit * kUnitKeys + i * kSegmentRows, head - batch * p.kv_heads,
                                       batch, s.values_full[warp], policy);
    }
  }

  /// Codes of a unit that has been brought, 16 or 32 channels at a time. A thread takes four keys that stand side by
  /// side in V^T and eight channels. kPlain: all channels are.
  template <bool kPlain>
  __device__ __forceinline__ void codes(int head, int unit) const {
    const int lane = lane_now();
    const int first = unit * kUnitKeys;
    constexpr int kChannels = 64 / kParts;                 // at a time
    const int key = lane % 4 * 2;                          // of the part; the others: + 1, + 8, + 9
    const int of = kParts == 2 ? lane / 8 % 2 : lane / 8;  // the part
    int c = lane / 4 % 2 * 8 + (kParts == 2 ? lane / 16 * 16 : 0);
    std::uint8_t* to = p.values.codes +
                       (static_cast<std::int64_t>(head) * p.k_tiles + first / kTileKeys) * C::kKvBytes +
                       v_offset(first % kTileKeys + of * kSegmentRows + key, c);
    const int left = p.kv_len - first - of * kSegmentRows - key;
    const auto real = [&](int j) { return j / 2 * 8 + j % 2 < left ? 0xFFU << 8 * j : 0U; };
    const unsigned mask = real(0) | real(1) | real(2) | real(3);
    const std::uint8_t* const from = part(of);
#pragma unroll 1
    for (; c < C::kDim; c += kChannels, to += kChannels * kTileKeys) {
      uint4 rows[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = key + j / 2 * 8 + j % 2;
        rows[j] = *reinterpret_cast<const uint4*>(
            from + box_offset(kSegmentRows, row, c / kBoxChannels, c % kBoxChannels / 8));
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const ValueChannel channel = channels()[c + i];
        float x[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          x[j] = element<T>(rows[j], i);
          if constexpr (!kPlain) x[j] = fmaf(x[j], channel.factor, channel.shift);
          x[j] = fmaf(x[j], channel.inverse, x[j] * channel.rest);
        }
        const unsigned word = e4m3_pair(x[0], x[1]) | static_cast<unsigned>(e4m3_pair(x[2], x[3])) << 16;
        store_further(to, i, word & mask);
      }
    }
  }

  /// Looks up a head's channels; whether all are plain.
  [[nodiscard]] __device__ __forceinline__ bool look_up(int head) const {
    bool plain = true;
    for (int c = lane_now(); c < C::kDim; c += 32) {
      const int at = head * C::kDim + c;
      const ValueChannel of = value_channel(p.v_mean != nullptr ? p.v_mean[at] : 0.0F, p.v_scale[at]);
      channels()[c] = of;
      plain = plain && of.plain();
    }
    return __all_sync(~0U, plain);
  }

  /// Says that `count` units of a head are there.
  __device__ __forceinline__ void publish(int head, int count) const {
    fence_before_copy_of_results();  // the copy engine reads the codes
    __syncwarp();
    if (lane_now() == 0 && count > 0) count_in_order(p.next_tile + 1 + head, count);
  }

  /// Another warp's queries may have lain where this one's channels will, and come there again: all warps.
  __device__ __forceinline__ void share_parts() const {
    if constexpr (C::kChannelsBehindRows) named_sync(kQuantiserBarrier, kQuantisers * 32);
  }

  /// What is made beside piece `index` of work.
  __device__ __forceinline__ void make(int index) {
    share_parts();
    const ValueWork work = values_at(p.pieces, p.values.shares, p.is_causal != 0, C::kRows, index);
    const int units = p.values.shares.units;
    int head = -1;
    int count = 0;
    bool plain = true;
#pragma unroll 1
    for (int i = work.first + warp; i < work.end; i += kQuantisers) {
      const int of = work.head + i / units;
      const int unit = i % units;
      bring(of, unit);
      if (of != head) {
        publish(head, count);
        head = of;
        count = 0;
        plain = look_up(head);
        __syncwarp();
      }
      s.values_full[warp].wait(parity);
      parity ^= 1;
      plain ? codes<true>(head, unit) : codes<false>(head, unit);
      ++count;
    }
    publish(head, count);
    share_parts();
  }
};

}  // namespace sage2::cuda::sm90
