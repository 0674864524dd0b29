#pragma once

#include "kernels/sm90_attention.cuh"

/// The consumer warpgroups of the Hopper kernel.
namespace sage2::cuda::sm90 {

/// Where a thread stands in its warpgroup's 64 rows.
struct Lane {
  int row;  ///< of its first row in the warpgroup's tile; the second is 8 further
  int t;    ///< holds keys (or columns) 2t and 2t + 1 of every 8
};
__device__ __forceinline__ Lane this_lane() {
  const int lane = threadIdx.x % 32;
  return {static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4, lane % 4};
}

/// One arrival a warp: all its threads have passed.
__device__ __forceinline__ void release(Barrier& barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier.arrive();
}

/// Everything a consumer keeps for one piece of work.
template <class C>
struct Output {
  static constexpr int kParts = C::kDim / C::kVColumns;
  float o[kParts][C::kVColumns / 2];
};

template <class T>
__device__ __forceinline__ void store_pair(void* o, std::int64_t at, float a, float b, bool both) {
  T* const to = static_cast<T*>(o) + at;
  const auto convert = [](float x) {
    if constexpr (std::is_same_v<T, float>) {
      return x;
    } else if constexpr (std::is_same_v<T, __half>) {
      return __float2half_rn(x);
    } else {
      return __float2bfloat16_rn(x);
    }
  };
  struct alignas(2 * sizeof(T)) Pair {
    T a, b;
  };
  // Strides and base of odd numbers of elements rule the wide store out.
  if (both && reinterpret_cast<std::uintptr_t>(to) % (2 * sizeof(T)) == 0) {
    *reinterpret_cast<Pair*>(to) = {convert(a), convert(b)};
  } else {
    to[0] = convert(a);
    if (both) to[1] = convert(b);
  }
}

/// O / l, scales and mean of V; log-sum-exp; counts.
template <class C>
__device__ __forceinline__ void finish(const AttentionParams& p, const Work& w, int first_row, Lane lane, int kv,
                                       const Output<C>& out, Rows& rows) {
  const int batch = w.head / p.q_heads;
  const int head = w.head - batch * p.q_heads;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = first_row + lane.row + 8 * r;
    // The four partial sums of a quad: (l0 + l1) + (l2 + l3).
    float l = rows.l[r];
    l = l + __shfl_xor_sync(~0U, l, 1);
    l = l + __shfl_xor_sync(~0U, l, 2);
    if (row >= p.q_len) continue;
    const float inverse = l == 0 ? 0.0F : 1.0F / l;
    const int visible = p.is_causal ? min(p.kv_len, max(0, row + p.causal_shift + 1)) : p.kv_len;
    const std::int64_t at = batch * p.o_stride_batch + head * p.o_stride_head + row * p.o_stride_token;
#pragma unroll
    for (int part = 0; part < Output<C>::kParts; ++part) {
#pragma unroll
      for (int b = 0; b < C::kVColumns / 8; ++b) {
        const int c = part * C::kVColumns + 8 * b + 2 * lane.t;
        if (c >= p.head_dim) continue;
        const std::int64_t channel = static_cast<std::int64_t>(kv) * C::kDim + c;
        const float2 scale = *reinterpret_cast<const float2*>(p.v_scale + channel);
        float a0 = out.o[part][4 * b + 2 * r] * inverse;
        float a1 = out.o[part][4 * b + 2 * r + 1] * inverse;
        if (p.v_mean != nullptr && visible > 0) {
          const float2 mean = *reinterpret_cast<const float2*>(p.v_mean + channel);
          a0 = fmaf(a0, scale.x, mean.x);
          a1 = fmaf(a1, scale.y, mean.y);
        } else {
          a0 = a0 * scale.x;
          a1 = a1 * scale.y;
        }
        const bool both = c + 1 < p.head_dim;
        switch (p.o_type) {
          case OutType::fp32:
            store_pair<float>(p.o, at + c, a0, a1, both);
            break;
          case OutType::fp16:
            store_pair<__half>(p.o, at + c, a0, a1, both);
            break;
          case OutType::bf16:
            store_pair<__nv_bfloat16>(p.o, at + c, a0, a1, both);
            break;
        }
      }
    }
    const std::int64_t index = static_cast<std::int64_t>(w.head) * p.q_len + row;
    if (p.lse != nullptr && lane.t == 0) {
      constexpr float kLn2 = 0.693147180559945F;
      const float shift = p.lse_shift != nullptr ? p.lse_shift[index] : 0.0F;
      p.lse[index] = visible > 0 ? fmaf(rows.m[r] + log2f(l), kLn2, shift) : -INFINITY;
    }
    if constexpr (C::Exp::kAccurate) {
      if (p.counts != nullptr) {
        unsigned long long* const counts = p.counts + static_cast<std::int64_t>(w.head) * 3;
        if (rows.underflow[r] > 0) atomicAdd(counts, rows.underflow[r]);
        if (lane.t == 0) atomicAdd(counts + 1, visible);
        if (rows.saturated[r] > 0) atomicAdd(counts + 2, rows.saturated[r]);
      }
    }
  }
}

template <class C>
__device__ __forceinline__ void consume(const AttentionParams& p, Shared<C>& s, int group) {
  using Acc = std::conditional_t<C::kInt, int, float>;
  constexpr int kParts = Output<C>::kParts;
  constexpr int kRegs = C::kVColumns / 2;
  const Lane lane = this_lane();
  RingPosition<C::kStages> k_at, v_at;
  RingPosition<2> work_at_;
  std::uint32_t q_parity = 0;
  if constexpr (C::kTurns) {
    if (group == C::kConsumers - 1) named_arrive(1, 256);
  }

  for (;;) {
    s.work_full[work_at_.stage].wait(work_at_.parity);
    const int index = s.work[work_at_.stage];
    release(s.work_empty[work_at_.stage]);
    work_at_.advance();
    if (index < 0) return;
    const Work w = work_at<C>(p, index);
    const int kv = kv_head_of(p, w.head);
    const int first_row = w.row + group * kTileRows;

    Output<C> out;
    Rows rows{{kNoScore, kNoScore}, {0, 0}, {0, 0}, {0, 0}};
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int i = 0; i < kRegs; ++i) out.o[part][i] = 0;
    }
    if (w.tiles > 0) {
      float q_scale[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = min(first_row + lane.row + 8 * r, p.q_tiles * kTileRows - 1);
        q_scale[r] = p.q_scale[static_cast<std::int64_t>(w.head) * p.q_tiles * kTileRows + row] * p.scale_log2;
      }
      // Tiles that every row of this warpgroup sees whole come first.
      const int least = p.is_causal ? min(p.kv_len, max(0, first_row + p.causal_shift + 1)) : p.kv_len;
      const int whole = min(w.tiles, least / kTileKeys);
      s.q_full[group].wait(q_parity);
      q_parity ^= 1;

      Acc acc[64];
      std::uint32_t packed[16];
      float fresh[kRegs];  // O_tile
      float alpha[2];

      const auto scores = [&] {
        hold(acc);
        wgmma_fence();
        issue_scores<C>(acc, s.q[group], s.k[k_at.stage]);
        wgmma_commit();
      };
      const auto softmax = [&]<bool kMasked>(int tile) {
        int seen[2] = {0, 0};
        if constexpr (kMasked) {
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const int row = first_row + lane.row + 8 * r;
            const int visible = p.is_causal ? min(p.kv_len, row + p.causal_shift + 1) : p.kv_len;
            seen[r] = (row < p.q_len ? visible : 0) - tile * kTileKeys - 2 * lane.t;
          }
        }
        const float* const delta = s.delta[C::kSmoothQ ? k_at.stage : 0][C::kSmoothQ ? group : 0];
        softmax_tile<C, kMasked>(acc, q_scale, s.k_scale[k_at.stage][lane.t], delta, p.p_offset, seen, rows, alpha,
                                 packed);
        release(s.k_empty[k_at.stage]);
        k_at.advance();
      };
      // O = alpha O + P V for one part of the columns: issued, and taken over when it is done.
      const auto issue_part = [&](int part) {
        if constexpr (C::kTwoLevel) {
          hold(fresh);
          wgmma_fence();
          issue_values<C>(fresh, packed, s.v[v_at.stage], part * C::kVColumns, false);
        } else {
#pragma unroll
          for (int i = 0; i < kRegs; ++i) out.o[part][i] = out.o[part][i] * alpha[i % 4 / 2];
          hold(out.o[part]);
          wgmma_fence();
          issue_values<C>(out.o[part], packed, s.v[v_at.stage], part * C::kVColumns, true);
        }
        wgmma_commit();
      };
      const auto take_part = [&](int part) {
        if constexpr (C::kTwoLevel) {
          hold(fresh);
          // Rescaling and promotion to FP32 are one instruction.
#pragma unroll
          for (int i = 0; i < kRegs; ++i) out.o[part][i] = fmaf(out.o[part][i], alpha[i % 4 / 2], fresh[i]);
        } else {
          hold(out.o[part]);
        }
      };
      // Warpgroups take turns with their products: left alone they all fall into step, and tensor cores and
      // exponentials would run one after the other instead of side by side.
      const auto begin_turn = [&] {
        if constexpr (C::kTurns) named_sync(1 + group, 256);
      };
      const auto end_turn = [&] {
        if constexpr (C::kTurns) named_arrive(1 + (group + 1) % C::kConsumers, 256);
      };
      if constexpr (C::kOverlap) {
        static_assert(kParts == 1);
        const auto step = [&]<bool kMasked, bool kMore>(int tile) {
          softmax.template operator()<kMasked>(tile);
          s.v_full[v_at.stage].wait(v_at.parity);
          if constexpr (kMore) s.k_full[k_at.stage].wait(k_at.parity);
          begin_turn();
          issue_part(0);
          if constexpr (kMore) {
            scores();
            end_turn();
            wgmma_wait<1>();
          } else {
            end_turn();
            wgmma_wait<0>();
          }
          take_part(0);
          release(s.v_empty[v_at.stage]);
          v_at.advance();
          if constexpr (kMore) {
            wgmma_wait<0>();
            hold(acc);
            if (tile + 2 == w.tiles) release(s.q_empty[group]);
          }
        };
        s.k_full[k_at.stage].wait(k_at.parity);
        scores();
        wgmma_wait<0>();
        hold(acc);
        if (w.tiles == 1) release(s.q_empty[group]);
        int tile = 0;
        for (; tile < min(whole, w.tiles - 1); ++tile) step.template operator()<false, true>(tile);
        for (; tile < w.tiles - 1; ++tile) step.template operator()<true, true>(tile);
        step.template operator()<true, false>(tile);
      } else {
        const auto step = [&]<bool kMasked>(int tile) {
          s.k_full[k_at.stage].wait(k_at.parity);
          scores();
          end_turn();
          wgmma_wait<0>();
          hold(acc);
          if (tile == w.tiles - 1) release(s.q_empty[group]);
          softmax.template operator()<kMasked>(tile);
          s.v_full[v_at.stage].wait(v_at.parity);
          begin_turn();
#pragma unroll
          for (int part = 0; part < kParts; ++part) {
            issue_part(part);
            wgmma_wait<0>();
            take_part(part);
          }
          release(s.v_empty[v_at.stage]);
          v_at.advance();
        };
        begin_turn();
        int tile = 0;
        for (; tile < whole; ++tile) step.template operator()<false>(tile);
        for (; tile < w.tiles; ++tile) step.template operator()<true>(tile);
        end_turn();
      }
    }
    finish<C>(p, w, first_row, lane, kv, out, rows);
  }
}

}  // namespace sage2::cuda::sm90
