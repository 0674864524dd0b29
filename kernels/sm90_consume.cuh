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
__device__ __forceinline__ void store_pair(T* to, float a, float b, bool both, bool wide) {
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
  if (both && wide) {
    *reinterpret_cast<Pair*>(to) = {convert(a), convert(b)};
  } else {
    to[0] = convert(a);
    if (both) to[1] = convert(b);
  }
}

/// Both rows of a thread, O / l with scales and mean of V, into the output's format. `seen`: whether a row sees a key.
template <class C, class T>
__device__ __forceinline__ void store_rows(const AttentionParams& p, const Work& w, int row, Lane lane, int kv,
                                           const Output<C>& out, const float (&inverse)[2], const bool (&seen)[2]) {
  const int batch = w.head / p.q_heads;
  const int head = w.head - batch * p.q_heads;
  T* const o = static_cast<T*>(p.o) + batch * p.o_stride_batch + head * p.o_stride_head;
  T* const to[2] = {o + row * p.o_stride_token + 2 * lane.t, o + (row + 8) * p.o_stride_token + 2 * lane.t};
  // Strides and base of odd numbers of elements rule the wide store out.
  const bool wide[2] = {reinterpret_cast<std::uintptr_t>(to[0]) % (2 * sizeof(T)) == 0,
                        reinterpret_cast<std::uintptr_t>(to[1]) % (2 * sizeof(T)) == 0};
  const std::int64_t first = static_cast<std::int64_t>(kv) * C::kDim + 2 * lane.t;
#pragma unroll
  for (int part = 0; part < Output<C>::kParts; ++part) {
#pragma unroll
    for (int b = 0; b < C::kVColumns / 8; ++b) {
      const int c = part * C::kVColumns + 8 * b;
      const int left = p.head_dim - c - 2 * lane.t;
      if (left > 0) {
        const float2 scale = *reinterpret_cast<const float2*>(p.v_scale + first + c);
        float2 mean = {0, 0};
        if (p.v_mean != nullptr) mean = *reinterpret_cast<const float2*>(p.v_mean + first + c);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float a0 = out.o[part][4 * b + 2 * r] * inverse[r];
          float a1 = out.o[part][4 * b + 2 * r + 1] * inverse[r];
          if (p.v_mean != nullptr && seen[r]) {
            a0 = fmaf(a0, scale.x, mean.x);
            a1 = fmaf(a1, scale.y, mean.y);
          } else {
            a0 = a0 * scale.x;
            a1 = a1 * scale.y;
          }
          if (row + 8 * r < w.end) store_pair<T>(to[r] + c, a0, a1, left > 1, wide[r]);
        }
      }
    }
  }
}

/// The end of a piece of work: output; log-sum-exp; counts.
template <class C>
__device__ __forceinline__ void finish(const AttentionParams& p, const Work& w, int first_row, Lane lane, int kv,
                                       const Output<C>& out, Rows& rows) {
  float l[2];
  float inverse[2];
  int visible[2];
  bool seen[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = first_row + lane.row + 8 * r;
    // The four partial sums of a quad: (l0 + l1) + (l2 + l3).
    l[r] = rows.l[r] + __shfl_xor_sync(~0U, rows.l[r], 1);
    l[r] = l[r] + __shfl_xor_sync(~0U, l[r], 2);
    inverse[r] = l[r] == 0 ? 0.0F : 1.0F / l[r];
    visible[r] = p.is_causal ? min(p.kv_len, max(0, row + p.causal_shift + 1)) : p.kv_len;
    seen[r] = visible[r] > 0;
  }
  const int row = first_row + lane.row;
  switch (p.o_type) {
    case OutType::fp32:
      store_rows<C, float>(p, w, row, lane, kv, out, inverse, seen);
      break;
    case OutType::fp16:
      store_rows<C, __half>(p, w, row, lane, kv, out, inverse, seen);
      break;
    case OutType::bf16:
      store_rows<C, __nv_bfloat16>(p, w, row, lane, kv, out, inverse, seen);
      break;
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (row + 8 * r < w.end) {
      const std::int64_t index = static_cast<std::int64_t>(w.head) * p.q_len + row + 8 * r;
      if (p.lse != nullptr && lane.t == 0) {
        constexpr float kLn2 = 0.693147180559945F;
        const float shift = p.lse_shift != nullptr ? p.lse_shift[index] : 0.0F;
        p.lse[index] = seen[r] ? fmaf(rows.m[r] + log2f(l[r]), kLn2, shift) : -INFINITY;
      }
      if constexpr (C::Exp::kAccurate) {
        if (p.counts != nullptr) {
          unsigned long long* const counts = p.counts + static_cast<std::int64_t>(w.head) * 3;
          if (rows.underflow[r] > 0) atomicAdd(counts, rows.underflow[r]);
          if (lane.t == 0) atomicAdd(counts + 1, visible[r]);
          if (rows.saturated[r] > 0) atomicAdd(counts + 2, rows.saturated[r]);
        }
      }
    }
  }
}

template <class C>
__device__ __forceinline__ void consume(const AttentionParams& p, Shared<C>& s, int group) {
  using Acc = std::conditional_t<C::kInt, int, float>;
  constexpr int kParts = Output<C>::kParts;
  constexpr int kRegs = C::kVColumns / 2;
  constexpr int kSteps = kTileKeys / C::kKeys;
  static_assert(kSteps == 1 || !C::kTurns);  // a turn would last over the second step's softmax
  static_assert(C::kTwoLevel || !C::kHalf);
  const Lane lane = this_lane();
  const Operands<C> operands(s, group);
  RingPosition<C::kStages> k_at, v_at;
  RingPosition<2> work_at_;
  std::uint32_t q_parity = 0;
  // The barrier of the warpgroup whose turn is next.
  const auto next = static_cast<int>(once(1 + (static_cast<std::uint32_t>(group) + 1) % C::kConsumers));
  if constexpr (C::kTurns) {
    if (group == C::kConsumers - 1) named_arrive(1, 256);
  }

  for (;;) {
    s.work_full[work_at_.stage].wait(work_at_.parity);
    const int index = s.work[work_at_.stage];
    release(s.work_empty[work_at_.stage]);
    work_at_.advance();
    if (index < 0) return;
    const Work w = work_at(p, C::kRows, index);
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
      // Tiles that every row of this warpgroup sees whole come first.
      const int least = p.is_causal ? min(p.kv_len, max(0, first_row + p.causal_shift + 1)) : p.kv_len;
      const int whole = C::kSkips && first_row >= w.end ? 0 : min(w.tiles, least / kTileKeys);
      s.q_full[group].wait(q_parity);
      q_parity ^= 1;
      const float q_scale[2] = {s.q_scale[group][lane.row] * p.scale_log2,
                                s.q_scale[group][lane.row + 8] * p.scale_log2};

      const int last = w.tiles - 1;
      Acc acc[64];
      std::uint32_t packed[C::kKeys / 8];
      // O_tile; in FP16 two columns a register.
      std::conditional_t<C::kHalf, std::uint32_t, float> fresh[C::kHalf ? kRegs / 2 : kRegs];
      float alpha[2];

      const auto scores = [&] {
        s.k_full[k_at.stage].wait(k_at.parity);
        hold(acc);
        wgmma_fence();
        issue_scores<C>(acc, operands.q, operands.k_at(k_at.stage));
        wgmma_commit();
      };
      const auto softmax = [&]<bool kMasked, int kStep>(int tile) {
        int seen[2] = {0, 0};
        if constexpr (kMasked) {
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const int row = first_row + lane.row + 8 * r;
            const int visible = p.is_causal ? min(p.kv_len, row + p.causal_shift + 1) : p.kv_len;
            seen[r] = (row < p.q_len ? visible : 0) - tile * kTileKeys - 2 * lane.t;
          }
        }
        const float* const delta = s.delta[C::kSmoothQ ? k_at.stage : 0][C::kDeltas > 1 ? group : 0];
        softmax_tile<C, kMasked, kStep>(acc, q_scale, s.k_scale[k_at.stage], delta, p.p_offset, seen, rows, alpha,
                                        packed);
        if constexpr (kStep == kSteps - 1) {
          release(s.k_empty[k_at.stage]);
          k_at.advance();
        }
      };
      // O = alpha O + P V for one part of the columns: issued, and taken over when it is done.
      const auto issue_part = [&](int part, int step) {
        if constexpr (C::kTwoLevel) {
          hold(fresh);
          wgmma_fence();
          issue_values<C>(fresh, packed, operands.v_at(v_at.stage), part * C::kVColumns, step, false, p.group);
        } else {
#pragma unroll
          for (int i = 0; i < kRegs; ++i) out.o[part][i] = out.o[part][i] * alpha[i % 4 / 2];
          hold(out.o[part]);
          wgmma_fence();
          issue_values<C>(out.o[part], packed, operands.v_at(v_at.stage), part * C::kVColumns, step, true, p.group);
        }
        wgmma_commit();
      };
      const auto take_part = [&](int part) {
        if constexpr (C::kHalf) {
          hold(fresh);
#pragma unroll
          for (int i = 0; i < kRegs / 2; ++i) {
            const float2 tile = __half22float2(reinterpret_cast<const __half2&>(fresh[i]));
            out.o[part][2 * i] = fmaf(out.o[part][2 * i], alpha[i % 2], tile.x);
            out.o[part][2 * i + 1] = fmaf(out.o[part][2 * i + 1], alpha[i % 2], tile.y);
          }
        } else if constexpr (C::kTwoLevel) {
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
        if constexpr (C::kTurns) named_arrive(next, 256);
      };
      const auto values = [&](int step) {
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          issue_part(part, step);
          wgmma_wait<0>();
          take_part(part);
        }
      };
      const auto step = [&]<bool kMasked>(int tile) {
        scores();
        end_turn();
        wgmma_wait<0>();
        hold(acc);
        // One arrival a warp, all of which has waited; as a branch it would part what the compiler may order.
        if ((tile == last) & (threadIdx.x % 32 == 0)) s.q_empty[group].arrive();
        softmax.template operator()<kMasked, 0>(tile);
        s.v_full[v_at.stage].wait(v_at.parity);
        begin_turn();
        values(0);
        if constexpr (kSteps == 2) {
          softmax.template operator()<kMasked, 1>(tile);
          values(1);
        }
        release(s.v_empty[v_at.stage]);
        v_at.advance();
      };
      begin_turn();
      int tile = 0;
      for (; tile < whole; ++tile) step.template operator()<false>(tile);
      // Tiles that this warpgroup's rows see; the others are those of warpgroups further down.
      const int seen = C::kSkips ? tiles_seen(p, first_row, min(first_row + kTileRows, w.end)) : w.tiles;
      for (; tile < seen; ++tile) step.template operator()<true>(tile);
      if constexpr (C::kSkips) {
        for (; tile < w.tiles; ++tile) {
          end_turn();
          s.k_full[k_at.stage].wait(k_at.parity);
          release(s.k_empty[k_at.stage]);
          k_at.advance();
          s.v_full[v_at.stage].wait(v_at.parity);
          begin_turn();
          release(s.v_empty[v_at.stage]);
          v_at.advance();
          if (tile == w.tiles - 1) release(s.q_empty[group]);
        }
      }
      end_turn();
    }
    finish<C>(p, w, first_row, lane, kv, out, rows);
  }
}

}  // namespace sage2::cuda::sm90
