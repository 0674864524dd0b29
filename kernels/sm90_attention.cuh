#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "kernels/sm90_async.cuh"
#include "kernels/sm90_softmax.cuh"
#include "kernels/sm90_tiles.hpp"
#include "kernels/sm90_wgmma.cuh"
#include "kernels/sm90_work.hpp"

/// Attention on Hopper: INT8 or E4M3 codes of Q and K, E4M3 P and V (docs/kernels.md).
///
/// One producer warp brings tiles with bulk copies into a ring, three more quantise the queries of the next piece of
/// work (sm90_queries.cuh) and V of later heads (sm90_values.cuh), and each consumer warpgroup owns 64 query rows.
/// Warpgroups take turns at the tensor cores: while one multiplies, the others turn scores into P. Blocks stay on their
/// multiprocessor and take the next piece of work from a counter.
namespace sage2::cuda::sm90 {

/// How a kernel uses its registers; measured, see docs/performance-gpu.md.
template <int kConsumers_, bool kTurns_ = true>
struct Schedule {
  static constexpr int kConsumers = kConsumers_;  ///< warpgroups of 64 query rows
  static constexpr bool kTurns = kTurns_;         ///< warpgroups issue their products in turn
};
/// Four warpgroups are what 64 columns of O leave registers for. The few more of dS are spilled (short calls have four
/// nevertheless, sm90_attention_fast.cu.in), those of the polynomial exp2 serialise the products.
template <int kDim, bool kSmoothQ, class Exp>
using DefaultSchedule = Schedule<kDim == 256 ? 2 : (kDim == 64 && !kSmoothQ && !Exp::kAccurate ? 4 : 3)>;

/// Keys of one step of the online softmax, and where the tile's P V is summed: O_tile in FP16 instead of FP32. Steps of
/// 64 keys are those of Ampere's and Ada's geometry; they compute PV for groups of 16 or 32 products (params.group).
template <int kKeys_, bool kHalf_ = false>
struct Steps {
  static constexpr int kKeys = kKeys_;
  static constexpr bool kHalf = kHalf_;
};

/// What the compiler must know. Everything else (masks, smooth V, GQA, output type) is decided at run time.
template <int kDim_, bool kInt_, bool kSmoothQ_, bool kTwoLevel_, class Exp_,
          class Schedule_ = DefaultSchedule<kDim_, kSmoothQ_, Exp_>, class Steps_ = Steps<kTileKeys>>
struct Config {
  static constexpr int kDim = kDim_;             ///< 64, 128 or 256
  static constexpr bool kInt = kInt_;            ///< INT8 codes, or E4M3 ones (which hold INT4 exactly)
  static constexpr bool kSmoothQ = kSmoothQ_;    ///< dS is added to the scores
  static constexpr bool kTwoLevel = kTwoLevel_;  ///< a fresh accumulator each key tile, added in FP32
  using Exp = Exp_;
  static constexpr int kKeys = Steps_::kKeys;      ///< keys of a softmax step: 128 or 64
  static constexpr bool kHalf = Steps_::kHalf;     ///< O_tile is summed in FP16
  static constexpr bool kScaleAKey = kKeys == 64;  ///< K has a scale a key and not four a tile: any granularity
  static constexpr int kKScales = kScaleAKey ? kTileKeys : 4;  ///< of a tile

  static constexpr int kConsumers = Schedule_::kConsumers;
  static constexpr bool kTurns = Schedule_::kTurns;
  /// Warpgroups skip tiles that none of their rows sees. (With dS at 128 columns this would spill in the main loop.)
  static constexpr bool kSkips = !(kSmoothQ && kDim == 128);
  /// A block takes the next piece of work with the first tile of this one and not with the last: work is shared out
  /// less evenly, but smoothing and quantising this many queries takes longer than the tiles on their way.
  static constexpr bool kEarly = kSmoothQ && kDim > 64;
  static constexpr int kRows = kConsumers * kTileRows;  ///< of a whole piece of work
  static constexpr int kThreads = (kConsumers + 1) * 128;
  // Of the 96, 128 or 168 registers a thread that a block of 5, 4 or 3 warpgroups starts with.
  static constexpr int kConsumerRegisters = kConsumers == 4 ? 112 : (kConsumers == 3 ? 160 : 232);
  static constexpr int kProducerRegisters = kConsumers == 2 ? 40 : 32;
  static constexpr int kQBytes = kTileRows * kDim;
  static constexpr int kKvBytes = kTileKeys * kDim;
  static constexpr int kStages = kDim == 64 ? 6 : (kDim == 128 ? 4 : 2);
  /// Rows of dS of a tile: two warpgroups are a block of queries, and share one.
  static constexpr int kDeltas = kSmoothQ && kConsumers > 2 ? kConsumers : 1;
  static constexpr bool kMakesValues = makes_values(kDim, kSmoothQ) && kKeys == kTileKeys;  ///< codes of V
  /// There is no room for what is known of V's channels but behind V's rows, in the memory for queries.
  static constexpr bool kChannelsBehindRows = kDim == 256;
  static constexpr int kVColumns = kDim == 256 ? 128 : kDim;  ///< columns of V of one product
};

inline constexpr int kQuantisers = 3;        ///< warps that make codes of queries and values
inline constexpr int kQuantiserBarrier = 8;  ///< theirs; the warpgroups' turns are 1 to 4

/// How a channel of V is quantised: the quotient (x - mean) / scale is y inverse + y rest, with y = x factor + shift.
/// Inverse and rest together are 1 / scale to 47 bits, so that the sum, rounded once, is the IEEE quotient but for the
/// last bit of one in 5 x 10^8 (8 of 4.8 x 10^9 random ones, and none of their codes). The factor is a power of two
/// where the scale is extreme, and else 1.
struct ValueChannel {
  float inverse, rest, factor, shift;
  [[nodiscard]] __device__ __forceinline__ bool plain() const { return factor == 1 && shift == 0; }
};

template <class C>
struct Shared {
  alignas(1024) std::uint8_t q[C::kConsumers][C::kQBytes];
  alignas(1024) std::uint8_t queries[C::kConsumers][2 * C::kQBytes];  ///< as captured, rows without gaps
  alignas(1024) std::uint8_t k[C::kStages][C::kKvBytes];
  alignas(1024) std::uint8_t v[C::kStages][C::kKvBytes];
  alignas(16) float delta[C::kSmoothQ ? C::kStages : 1][C::kDeltas][kTileKeys];
  alignas(16) float k_scale[C::kStages][C::kKScales];
  alignas(16) float q_scale[C::kConsumers][kTileRows];
  alignas(16) float2 row_scale[C::kConsumers][kTileRows];  ///< of the queries in `queries`: largest magnitude, then
                                                           ///< scale and inverse
  float segment_max[C::kConsumers][kTileRows / kSegmentRows];
  Barrier q_full[C::kConsumers], q_empty[C::kConsumers];
  Barrier k_full[C::kStages], k_empty[C::kStages];
  Barrier v_full[C::kStages], v_empty[C::kStages];
  Barrier work_full[2], work_empty[2];
  int work[2];
  Barrier values_full[kQuantisers];
  static constexpr bool kChannels = C::kMakesValues && !C::kChannelsBehindRows;
  alignas(16) ValueChannel channel[kChannels ? kQuantisers : 1][kChannels ? C::kDim : 1];  ///< of V
};

__device__ __forceinline__ int kv_head_of(const AttentionParams& p, int head) {
  const int batch = head / p.q_heads;
  return batch * p.kv_heads + (head - batch * p.q_heads) / (p.q_heads / p.kv_heads);
}

/// The producer: one thread that keeps the ring full, across pieces of work.
template <class C>
__device__ void produce(const AttentionParams& p, Shared<C>& s) {
  RingPosition<C::kStages> k_at, v_at;
  RingPosition<2> work_at_;
  std::uint32_t q_parity = 0;
  const int total = p.pieces.count;
  const std::int64_t kv_stride = static_cast<std::int64_t>(p.k_tiles) * C::kKvBytes;
  const auto post = [&](int index) {
    s.work_empty[work_at_.stage].wait(work_at_.parity ^ 1);
    s.work[work_at_.stage] = index < total ? index : -1;
    s.work_full[work_at_.stage].arrive();
    work_at_.advance();
    return index;
  };
  // A block that has not begun must not hold a piece, since others may wait for the codes of V made beside it.
  const auto take = [&] { return post(atomicAdd(p.next_tile, 1)); };
  for (int index = take(); index < total;) {
    const Work w = work_at(p, C::kRows, index);
    const int kv = kv_head_of(p, w.head);
    const std::uint8_t* const k = p.k + kv * kv_stride;
    const std::uint8_t* const v = p.v + kv * kv_stride;
    const float* const k_scale = p.k_scale + static_cast<std::int64_t>(kv) * p.k_tiles * C::kKScales;

    // The next piece is taken before this one is done, so that its queries can be quantised meanwhile.
    const int ahead = C::kEarly ? 0 : w.tiles - 1;
    const auto next = [&] { index = take(); };
    if (w.tiles > 0) {
      for (int i = 0; i < C::kConsumers && p.queries.captured.data == nullptr; ++i) {
        s.q_empty[i].wait(q_parity ^ 1);
        // A tile beyond the last one: any rows will do, nothing of them is stored.
        const std::int64_t tile =
            static_cast<std::int64_t>(w.head) * p.q_tiles + min(w.row / kTileRows + i, p.q_tiles - 1);
        s.q_full[i].expect(C::kQBytes + kTileRows * 4);
        bulk_copy(s.q[i], p.q + tile * C::kQBytes, C::kQBytes, s.q_full[i]);
        bulk_copy(s.q_scale[i], p.q_scale + tile * kTileRows, kTileRows * 4, s.q_full[i]);
      }
      q_parity ^= 1;
      const auto bring_k = [&](int tile) {
        s.k_empty[k_at.stage].wait(k_at.parity ^ 1);
        auto& full = s.k_full[k_at.stage];
        constexpr int kDeltaBytes = C::kSmoothQ ? C::kDeltas * kTileKeys * 4 : 0;
        full.expect(C::kKvBytes + C::kKScales * 4 + kDeltaBytes);
        bulk_copy(s.k[k_at.stage], k + static_cast<std::int64_t>(tile) * C::kKvBytes, C::kKvBytes, full);
        bulk_copy(s.k_scale[k_at.stage], k_scale + tile * C::kKScales, C::kKScales * 4, full);
        if constexpr (C::kSmoothQ) {
#pragma unroll
          for (int i = 0; i < C::kDeltas; ++i) {
            const int block = min((w.row + i * kTileRows) / kMeanRows, p.q_blocks - 1);
            const float* const delta =
                p.delta_s + (static_cast<std::int64_t>(w.head) * p.q_blocks + block) * p.k_tiles * kTileKeys;
            bulk_copy(s.delta[k_at.stage][i], delta + tile * kTileKeys, kTileKeys * 4, full);
          }
        }
        k_at.advance();
      };
      const auto bring_v = [&](int tile) {
        s.v_empty[v_at.stage].wait(v_at.parity ^ 1);
        auto& full = s.v_full[v_at.stage];
        full.expect(C::kKvBytes);
        bulk_copy(s.v[v_at.stage], v + static_cast<std::int64_t>(tile) * C::kKvBytes, C::kKvBytes, full);
        v_at.advance();
      };
      const bool made_here = C::kMakesValues && p.values.codes != nullptr && kv >= p.values.shares.first;
      if (made_here) {
        await(p.next_tile + 1 + kv, p.values.shares.units);
        fence_before_copy_of_results();
      }
      for (int tile = 0; tile < w.tiles; ++tile) {
        bring_k(tile);
        if (tile > 0) bring_v(tile - 1);
        if (tile == ahead) next();
      }
      bring_v(w.tiles - 1);
    } else {
      next();
    }
  }
}

/// Descriptors of a warpgroup's operands in shared memory.
template <class C>
struct Operands {
  static constexpr Swizzle kSwizzle = C::kDim == 64 ? Swizzle::bytes64 : Swizzle::bytes128;
  std::uint64_t q, k, v;  ///< of k and v the first stage

  __device__ __forceinline__ Operands(const Shared<C>& s, int group)
      : q(once(matrix<kSwizzle>(s.q[group]))),
        k(once(matrix<kSwizzle>(s.k[0]))),
        v(once(matrix<Swizzle::bytes128>(s.v[0]))) {}
  [[nodiscard]] __device__ __forceinline__ std::uint64_t k_at(int stage) const {
    return matrix<kSwizzle>(low(k, stage));
  }
  [[nodiscard]] __device__ __forceinline__ std::uint64_t v_at(int stage) const {
    return matrix<Swizzle::bytes128>(low(v, stage));
  }

 private:
  [[nodiscard]] __device__ __forceinline__ static std::uint32_t low(std::uint64_t first, int stage) {
    return static_cast<std::uint32_t>(first) + static_cast<std::uint32_t>(stage) * (C::kKvBytes / 16);
  }
};

/// S of one tile: Q K^T of the codes.
template <class C, class Acc>
__device__ __forceinline__ void issue_scores(Acc (&acc)[64], std::uint64_t q, std::uint64_t k) {
  constexpr int kHalves = C::kDim == 256 ? 2 : 1;
  constexpr int kSteps = (C::kDim == 64 ? 64 : 128) / 32;
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      // 32 bytes along K are 2 in units of 16.
      const std::uint64_t a = q + half * (kTileRows * 128 / 16) + i * 2;
      const std::uint64_t b = k + half * (kTileKeys * 128 / 16) + i * 2;
      if constexpr (C::kInt) {
        wgmma_s8(acc, a, b, half + i > 0);
      } else {
        wgmma_e4m3(acc, a, b, half + i > 0);
      }
    }
  }
}

/// O_tile = P V for kVColumns columns from `first` on, keys of step `step`. `group`: see below.
template <class C, class Acc, int kRegs>
__device__ __forceinline__ void issue_values(Acc (&o)[kRegs], const std::uint32_t (&p)[C::kKeys / 8], std::uint64_t v,
                                             int first, int step, bool accumulate, int group) {
  const std::uint64_t b = v + first * (kTileKeys / 16) + step * (C::kKeys / 32) * 2;
#pragma unroll
  for (int i = 0; i < C::kKeys / 32; ++i) {
    if constexpr (C::kKeys == kTileKeys) {
      wgmma_e4m3(o, p + i * 4, b + i * 2, accumulate || i > 0);
    } else {
      // Hopper sums 32 products at once and Ada 16, both in 13 fraction bits; a product that is zero takes no part.
      // So two instructions, each with half of P set to zero, sum 32 products as Ada does. For groups of 32 the second
      // has nothing but zeros, which leave its accumulator as it is.
      const bool whole = group == 32;
      const std::uint32_t low[4] = {p[4 * i], p[4 * i + 1], whole ? p[4 * i + 2] : 0, whole ? p[4 * i + 3] : 0};
      const std::uint32_t high[4] = {0, 0, whole ? 0 : p[4 * i + 2], whole ? 0 : p[4 * i + 3]};
      wgmma_e4m3(o, low, b + i * 2, accumulate || i > 0);
      wgmma_e4m3(o, high, b + i * 2, true);
    }
  }
}

template <class C>
__device__ __forceinline__ void consume(const AttentionParams& p, Shared<C>& s, int group);
template <class C, class T>
__device__ __forceinline__ void quantize_queries(const AttentionParams& p, Shared<C>& s, const CUtensorMap& values,
                                                 int warp);

/// values: p.values.rows. (A parameter whose address is taken would cost the consumers registers.)
template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    attention_kernel(const __grid_constant__ AttentionParams p, const __grid_constant__ CUtensorMap values) {
  // Dynamic shared memory begins at a multiple of 1024 bytes, since there is no other.
  extern __shared__ __align__(1024) std::uint8_t raw[];
  auto& s = *reinterpret_cast<Shared<C>*>(raw);
  if (threadIdx.x == 0) {
    const bool captured = p.queries.captured.data != nullptr;
    for (int i = 0; i < C::kConsumers; ++i) {
      s.q_full[i].init(captured ? kTileRows / kSegmentRows * 32 : 1);
      s.q_empty[i].init(4);
    }
    for (int i = 0; i < C::kStages; ++i) {
      s.k_full[i].init(1);
      s.v_full[i].init(1);
      s.k_empty[i].init(4 * C::kConsumers);
      s.v_empty[i].init(4 * C::kConsumers);
    }
    for (Barrier& full : s.values_full) full.init(1);
    for (int i = 0; i < 2; ++i) {
      s.work_full[i].init(1);
      s.work_empty[i].init(4 * C::kConsumers + (captured ? kQuantisers : 0));
    }
    fence_barrier_init();
  }
  __syncthreads();
  // The same for the whole warp, which the compiler cannot see otherwise.
  const int group = __shfl_sync(~0U, threadIdx.x / 128, 0);
  if (group == C::kConsumers) {
    give_registers<C::kProducerRegisters>();
    const int warp = __shfl_sync(~0U, threadIdx.x % 128 / 32, 0);
    if (warp == 0) {
      if (threadIdx.x % 32 == 0) produce<C>(p, s);
    } else if (p.queries.captured.data != nullptr) {
      p.queries.captured.dtype == DType::float16 ? quantize_queries<C, __half>(p, s, values, warp - 1)
                                                 : quantize_queries<C, __nv_bfloat16>(p, s, values, warp - 1);
    }
  } else {
    take_registers<C::kConsumerRegisters>();
    consume<C>(p, s, group);
  }
}

}  // namespace sage2::cuda::sm90
