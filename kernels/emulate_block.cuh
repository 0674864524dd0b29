#pragma once

#include <cstdint>

#include "kernels/emulate_accumulators.cuh"
#include "kernels/emulate_panels.cuh"
#include "kernels/emulate_stage.cuh"
#include "reference/exp2.hpp"
#include "reference/formats.hpp"

/// One block of the loop: 32 or 64 query rows of a head (docs/numerics.md, section 3).
namespace sage2::cuda {

/// Below every score (kNoScore of the CPU's softmax).
constexpr float kHidden = -1e30F;
/// The CPU works on strips of so many rows, which stop at the last key that any of them sees.
constexpr int kStripRows = 32;
/// FP16 accumulators start afresh after this many keys.
constexpr int kHalfAccumulatorKeys = 64;

/// Where the block is, and which part of the work a thread has.
template <int kRows>
struct Block {
  static constexpr int kThreads = 4 * kRows;

  const LoopParams& p;
  unsigned char* memory;
  std::int64_t head, kv_head, first_row;
  int slice;
  Place place;     ///< in products
  int row, share;  ///< in the softmax: keys 8i + 2 share and the next one of a row
  float m = kHidden, l = 0;
  unsigned underflow = 0, saturated = 0;

  __device__ Block(const LoopParams& params, unsigned char* shared) : p(params), memory(shared) {
    std::int64_t id = blockIdx.x;
    slice = static_cast<int>(id % p.layout.slices);
    id /= p.layout.slices;
    const std::int64_t block = id % p.row_blocks;
    // Under a causal mask the last rows see most keys: they start first.
    first_row = (p.is_causal ? p.row_blocks - 1 - block : block) * kRows;
    head = id / p.row_blocks;
    kv_head = head / p.ratio;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    constexpr int kAcross = kRows / 32;
    place = {(lane & 7) + 8 * (warp % kAcross), (lane >> 3) + 4 * (warp / kAcross)};
    row = static_cast<int>(threadIdx.x) % kRows;
    share = static_cast<int>(threadIdx.x) / kRows;
  }

  __device__ RowState<kRows>& state() const { return *reinterpret_cast<RowState<kRows>*>(memory + p.layout.rows); }
  __device__ float* k_scale() const { return reinterpret_cast<float*>(memory + p.layout.k_scale); }
  __device__ float* s() const { return reinterpret_cast<float*>(memory + p.layout.s); }
  __device__ Panel q_panel() const { return panel(p.layout.q, p.layout.q_exponents); }
  __device__ Panel p_panel() const { return panel(p.layout.p, p.layout.p_exponents); }
  __device__ Panel b_panel() const { return panel(p.layout.b, p.layout.b_exponents); }
  __device__ Panel panel(std::uint32_t values, std::uint32_t exponents) const {
    return {memory + values, reinterpret_cast<std::uint32_t*>(memory + exponents)};
  }
  /// Channels [first, last) of a part of V that this block computes.
  __device__ int first_channel(int part) const { return part == 0 ? slice * p.layout.slice : 0; }
  __device__ int last_channel(int part) const {
    if (part == 0) return min(p.part[0].count, first_channel(0) + p.layout.slice);
    return slice == 0 ? p.part[part].count : 0;
  }

  __device__ void load_rows() {
    auto& rows = state();
    if (threadIdx.x < 4) rows.limit[threadIdx.x] = 0;
    __syncthreads();
    if (threadIdx.x < kRows) {
      const std::int64_t i = first_row + threadIdx.x;
      const bool real = i < p.row_count;
      // Lanes without a row compute the last one again and see no key.
      const std::int64_t at = real ? i : p.row_count - 1;
      const std::int64_t r = p.rows != nullptr ? p.rows[head * p.row_count + at] : at;
      const std::int64_t seen = p.is_causal ? min(max(r + p.causal_shift + 1, std::int64_t{0}), p.k_len) : p.k_len;
      const int visible = real ? static_cast<int>(seen) : 0;
      rows.row[threadIdx.x] = static_cast<std::uint32_t>(r);
      rows.visible[threadIdx.x] = visible;
      rows.bad[threadIdx.x] = 0;
      rows.q_scale[threadIdx.x] = p.q_scale[head * p.q_len + r] * p.scale_log2;
      atomicMax(rows.limit + threadIdx.x / kStripRows, visible);
    }
    __syncthreads();
    if (!p.q_overflows) return;
    const float* const codes = q_codes() + static_cast<std::int64_t>(rows.row[row]) * p.depth;
    bool finite = true;
    for (int c = share; c < p.depth; c += 4) finite = finite && isfinite(codes[c]);
    if (!finite) rows.bad[row] = 1;  // any of the four threads may say so
    __syncthreads();
  }

  __device__ const float* q_codes() const { return p.q_codes + head * p.q_len * p.depth; }

  /// Keys that any row of the block sees.
  __device__ int limit() const {
    int most = 0;
    for (int i = 0; i < kRows / kStripRows; ++i) most = max(most, state().limit[i]);
    return most;
  }

  // ---- S = Q K^T of the codes.

  template <Product kHow>
  __device__ void stage_queries(int first, int depth) const {
    stage_q<kHow, kRows>(q_panel(), q_codes() + first, p.depth, state().row, depth, p.qk.a, p.q_overflows);
  }

  template <Product kHow>
  __device__ void scores(std::int64_t first_key) {
    const bool resident = p.layout.q_depth >= p.depth;
    for (int n0 = 0; n0 < p.k_tile; n0 += kPanelColumns) {
      const int keys = min(kPanelColumns, p.k_tile - n0);
      typename Sum<kHow>::Type acc[4][4] = {};
      for (int d0 = 0; d0 < p.depth; d0 += p.layout.qk_chunk) {
        const int depth = min(p.layout.qk_chunk, p.depth - d0);
        __syncthreads();
        if (!resident) stage_queries<kHow>(d0, depth);
        const float* const codes = p.k_codes + (kv_head * p.k_tokens + first_key + n0) * p.depth + d0;
        stage_k<kHow, kThreads>(b_panel(), codes, p.depth, keys, depth, p.qk.b, p.first_bad_key != nullptr);
        __syncthreads();
        if (first_column<kHow>(place) < keys) {
          multiply<kHow, kRows, false>(panel_at<kHow>(q_panel(), resident ? d0 : 0, kRows), b_panel(), place, depth,
                                       p.qk, acc);
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int key = column_of<kHow>(place, j);
        if (key >= keys) continue;
        float* const to = s() + (n0 + key) * kRows;
#pragma unroll
        for (int i = 0; i < 4; ++i) to[row_of<kHow, kRows>(place, i)] = static_cast<float>(acc[i][j]);
      }
    }
    __syncthreads();
  }

  // ---- From products of codes to rounded P: running maximum, rescaling factor, exponentials, denominator.

  /// Calls f(round) with the rounding of P's format.
  template <class F>
  __device__ void with_rounding(const F& f) const {
    switch (p.p) {
      case Format::e4m3:
        return f([](float x) { return round_e4m3(x); });
      case Format::e5m2:
        return f([](float x) { return round_e5m2(x); });
      case Format::fp16:
        return f([](float x) { return round_fp16(x); });
      case Format::bf16:
        return f([](float x) { return round_bf16(x); });
      case Format::int8:
        return f([](float x) { return round_half_even(x * 127.0F); });
      default:
        return f([](float x) { return x; });
    }
  }

  __device__ void softmax(std::int64_t first_key) {
    auto& rows = state();
    const float q_scale = rows.q_scale[row];
    const int visible = rows.visible[row];
    const float* delta = nullptr;
    if (p.delta != nullptr) {
      const std::int64_t block = rows.row[row] / kSmoothQBlock;
      delta = p.delta + (head * p.delta_blocks + block) * p.k_tokens + first_key;
    }
    float largest = kHidden;
    for (int n0 = 2 * share; n0 < p.k_tile; n0 += 8) {
#pragma unroll
      for (int n = n0; n < n0 + 2; ++n) {
        float& score = s()[n * kRows + row];
        const float f = q_scale * k_scale()[n];
        float x = score * f;
        if (delta != nullptr) {
          x = fmaf(score, f, delta[n]);
          score = x;
        }
        const float seen = first_key + n < visible ? x : kHidden;
        largest = seen > largest ? seen : largest;
      }
    }
    rows.reduce[share][row] = largest;
    __syncthreads();
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const float other = rows.reduce[t][row];
      largest = other > largest ? other : largest;
    }
    const float shifted = largest - p.p_offset;
    const float before = m;
    m = shifted > before ? shifted : before;
    const float alpha = exp2_shared(before - m);
    if (share == 0) rows.alpha[row] = alpha;
    l *= alpha;
    with_rounding([&](const auto& round) {
      float sum = l;
      unsigned zeros = 0;
      unsigned clamped = 0;
#pragma unroll 2
      for (int n0 = 2 * share; n0 < p.k_tile; n0 += 8) {
#pragma unroll
        for (int n = n0; n < n0 + 2; ++n) {
          float& score = s()[n * kRows + row];
          const float f = q_scale * k_scale()[n];
          const float e = exp2_shared(delta != nullptr ? score - m : fmaf(score, f, -m));
          const bool in = first_key + n < visible;
          const float seen = in ? e : 0.0F;
          sum += seen;
          const float code = round(seen);
          clamped += seen > p.p_limit ? 1U : 0U;
          zeros += in && code == 0 ? 1U : 0U;
          score = code * p.p_unit;
        }
      }
      l = sum;
      underflow += zeros;
      saturated += clamped;
    });
    __syncthreads();
  }

  // ---- O = alpha O + P V.

  __device__ bool active(int r, std::int64_t first_key) const {
    return first_key < state().limit[r / kStripRows];
  }

  template <Product kHow>
  __device__ void multiply_v(int which, std::int64_t first_key) {
    using Acc = typename Sum<kHow>::Type;
    const PartPlan& part = p.part[which];
    const int begin = first_channel(which);
    const int end = last_channel(which);
    const float* const scale =
        part.scale_rows > 1 ? part.scale + (kv_head * part.scale_rows + first_key / p.k_tile) * part.count : nullptr;
    for (int c0 = begin; c0 < end; c0 += kPanelColumns) {
      const int columns = min(kPanelColumns, end - c0);
      Acc acc[4][4] = {};
      if (kHow == Product::fp64 || !p.fresh) rescale<kHow>(which, c0, columns, scale, part.product, acc);
      bool first_flush = true;
      for (int k0 = 0; k0 < p.k_tile; k0 += p.layout.pv_chunk) {
        const int keys = min(p.layout.pv_chunk, p.k_tile - k0);
        __syncthreads();
        if (c0 == begin || p.k_tile > p.layout.pv_chunk) {
          stage_p<kHow, kRows>(p_panel(), s() + k0 * kRows, keys, part.product.a, p.p_back);
        }
        const float* const codes = part.codes + (kv_head * p.k_tokens + first_key + k0) * part.count + c0;
        stage_v<kHow, kThreads>(b_panel(), codes, part.count, keys, columns, part.product.b, part.first_bad != nullptr);
        __syncthreads();
        if (first_column<kHow>(place) >= columns) continue;
        Panel a = p_panel();
        if (kHow == Product::light) a.values = s() + k0 * kRows;
        multiply<kHow, kRows, true>(a, b_panel(), place, keys, part.product, acc);
        const int done = k0 + keys;
        const bool flush = done == p.k_tile || (part.product.model.half && done % kHalfAccumulatorKeys == 0);
        if constexpr (kHow != Product::fp64) {
          if (p.fresh && flush) {
            promote<kHow>(which, c0, columns, scale, first_key, first_flush, acc);
            first_flush = false;
          }
        }
      }
      if (kHow == Product::fp64 || !p.fresh) store<kHow>(which, c0, columns, scale, first_key, acc);
    }
  }

  /// Calls f(i, j, row, column in the part, element of O) for a thread's results. O holds T.
  template <Product kHow, class T, class F>
  __device__ void for_results(int which, int c0, int columns, const F& f) const {
    T* const o = reinterpret_cast<T*>(memory + p.layout.o[which]);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int c = column_of<kHow>(place, j);
      if (c >= columns) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = row_of<kHow, kRows>(place, i);
        f(i, j, r, c0 + c, o[(c0 - first_channel(which) + c) * kRows + r]);
      }
    }
  }

  /// One accumulator over all keys, rescaled in its own format.
  template <Product kHow, class Acc>
  __device__ void rescale(int which, int c0, int columns, const float* scale, const ProductPlan& plan,
                          Acc (&acc)[4][4]) const {
    const float* const alpha = state().alpha;
    if constexpr (kHow == Product::fp64) {
      for_results<kHow, double>(which, c0, columns, [&](int i, int j, int r, int c, double& o) {
        // With a scale per tile, O is kept in units of this tile's scale while it is added to.
        acc[i][j] = o * (static_cast<double>(alpha[r]) / (scale != nullptr ? static_cast<double>(scale[c]) : 1.0));
      });
    } else {
      for_results<kHow, float>(which, c0, columns, [&](int i, int j, int r, int, float& o) {
        const float x = o * alpha[r];
        acc[i][j] = static_cast<Acc>(plan.model.half ? round_fp16(x) : x);
      });
    }
  }

  template <Product kHow, class Acc>
  __device__ void store(int which, int c0, int columns, const float* scale, std::int64_t first_key,
                        Acc (&acc)[4][4]) const {
    if constexpr (kHow == Product::fp64) {
      for_results<kHow, double>(which, c0, columns, [&](int i, int j, int r, int c, double& o) {
        if (active(r, first_key)) o = scale != nullptr ? acc[i][j] * static_cast<double>(scale[c]) : acc[i][j];
      });
    } else {
      for_results<kHow, float>(which, c0, columns, [&](int i, int j, int r, int, float& o) {
        if (active(r, first_key)) o = static_cast<float>(acc[i][j]);
      });
    }
  }

  /// Rescaling and promotion of a fresh accumulator to FP32 are one instruction.
  template <Product kHow, class Acc>
  __device__ void promote(int which, int c0, int columns, const float* scale, std::int64_t first_key, bool first,
                          Acc (&acc)[4][4]) const {
    const float* const alphas = state().alpha;
    for_results<kHow, float>(which, c0, columns, [&](int i, int j, int r, int c, float& o) {
      const float alpha = first ? alphas[r] : 1.0F;
      const float t = static_cast<float>(acc[i][j]);
      acc[i][j] = 0;
      if (active(r, first_key)) o = scale != nullptr ? fmaf(t, scale[c], o * alpha) : fmaf(o, alpha, t);
    });
  }

  // ---- O / l, scales and mean of V.

  /// Whether a row that sees so many keys sees the first bad one; there may be no list.
  __device__ static bool sees(int visible, const std::uint32_t* first_bad, std::int64_t at) {
    return first_bad != nullptr && static_cast<std::uint32_t>(visible) > first_bad[at];
  }

  __device__ void finish() {
    auto& rows = state();
    __syncthreads();
    rows.reduce[share][row] = l;
    __syncthreads();
    const float sum = (rows.reduce[0][row] + rows.reduce[1][row]) + (rows.reduce[2][row] + rows.reduce[3][row]);
    const float unit = p.p == Format::int8 ? 127.0F : 1.0F;
    const float inverse = sum == 0 ? 0.0F : 1.0F / (sum * unit);
    if (first_row + row >= p.row_count) return;
    float* const out = p.o + (head * p.row_count + first_row + row) * p.head_dim;
    const int visible = rows.visible[row];
    // 0 x infinity is NaN, as on the hardware; the accumulators' integers cannot carry it, so that such codes were
    // taken out.
    const bool lost = visible > 0 && (rows.bad[row] != 0 || sees(visible, p.first_bad_key, kv_head));
    for (int which = 0; which < p.parts; ++which) {
      const PartPlan& part = p.part[which];
      const int begin = first_channel(which);
      const unsigned char* const o = memory + p.layout.o[which];
      const bool per_tile_scale = part.scale_rows > 1;
      for (int c = begin + share; c < last_channel(which); c += 4) {
        const int at = (c - begin) * kRows + row;
        const std::int64_t of_head = kv_head * part.count + c;
        const std::uint32_t channel = part.channels[of_head];
        const float scale = per_tile_scale ? 1.0F : part.scale[of_head];
        const float raw =
            part.product.how == Product::fp64
                ? static_cast<float>(reinterpret_cast<const double*>(o)[at] * static_cast<double>(inverse))
                : reinterpret_cast<const float*>(o)[at] * inverse;
        float value = p.v_mean == nullptr || visible == 0 ? raw * scale
                                                          : fmaf(raw, scale, p.v_mean[kv_head * p.head_dim + channel]);
        if (p.o_format == OutFormat::fp16) value = round_fp16(value);
        if (p.o_format == OutFormat::bf16) value = round_bf16(value);
        out[channel] = lost || sees(visible, part.first_bad, of_head) ? __int_as_float(0x7FC00000) : value;
      }
    }
  }

  __device__ void add_counts() const {
    if (p.counts == nullptr || slice != 0) return;
    constexpr unsigned kAll = 0xFFFFFFFFU;
    const unsigned total = share == 0 ? static_cast<unsigned>(state().visible[row]) : 0U;
    const unsigned sums[3] = {__reduce_add_sync(kAll, underflow), __reduce_add_sync(kAll, total),
                              __reduce_add_sync(kAll, saturated)};
    if (threadIdx.x % 32 != 0) return;
    LoopCounts& to = p.counts[head];
    atomicAdd(&to.p_underflow, static_cast<unsigned long long>(sums[0]));
    atomicAdd(&to.p_total, static_cast<unsigned long long>(sums[1]));
    atomicAdd(&to.saturated, static_cast<unsigned long long>(sums[2]));
  }
};

}  // namespace sage2::cuda
