#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/f64_math.cuh"
#include "kernels/f64_tile.cuh"

/// Flash attention in FP64. Per block of query rows, for each tile of keys: S = Q K^T on tensor cores, P = 2^(scale S -
/// m) in the same registers, O += P V on tensor cores, whose layout of A is that of S if the keys are taken in another
/// order. V is widened to FP64 while K is in use and the next K while V is, by half of the warps before their products
/// and by the other half after them, so that the tensor cores always have work.
namespace sage2::cuda {

inline constexpr int kWarpRows = 16;
inline constexpr unsigned kAllLanes = 0xFFFFFFFFU;
inline constexpr double kLn2 = 0x1.62e42fefa39efp-1;
inline constexpr double kLog2E = 0x1.71547652b82fep+0;
/// The reference of the exponentials lags behind the running maximum by up to this power of two: FP64 has the range,
/// and the output is hardly ever rescaled.
inline constexpr double kLag = 64;

struct ExactParams {
  TileSource q, k, v;
  const std::uint32_t* rows;
  std::int64_t row_count;          ///< rows wanted of each head
  std::int64_t heads;              ///< query heads of all batch entries
  std::int64_t q_heads, kv_heads;  ///< of one
  std::int64_t row_blocks;
  std::int32_t steps;  ///< of 16 channels of Q and K
  bool is_causal;
  std::int64_t causal_shift;
  double score_scale;  ///< |sm_scale| log2(e), or 1 where sm_scale is 0
  float q_factor;      ///< the sign of sm_scale
  double* o;
  double* lse;
};

/// How a block works: each of kWarps warps has 16 query rows and kColumns columns of the output in registers, and meets
/// kKeys keys of up to kDepth channels at a time.
template <int depth, int columns, int keys, int warps>
struct Tiling {
  static constexpr int kDepth = depth;
  static constexpr int kColumns = columns;
  static constexpr int kKeys = keys;
  static constexpr int kWarps = warps;
  static constexpr int kThreads = 32 * warps;
  static constexpr int kRows = kWarpRows * warps;
  using KMover = TileMover<kThreads, kKeys, kDepth / 4, true>;
  using VMover = TileMover<kThreads, kKeys, kColumns / 4, false>;
  /// In shared memory. Q is there in FP32, which holds it exactly, K and V in FP64.
  struct Shared {
    float q[kRows * kDepth];
    double k[kKeys * kDepth];
    double v[kKeys * kColumns];
    typename KMover::Staging k_staging;
    typename VMover::Staging v_staging;
    int most[kWarps];
  };
};

/// Q of a block; rows that are not there are zeros. Every second row has its neighbouring runs of 16 channels swapped,
/// so that the lanes of a warp meet different banks.
template <class T>
__device__ void load_q(const ExactParams& p, std::int64_t head, std::int64_t first, typename T::Shared& shared) {
  constexpr int kUnits = T::kDepth / 4;
  const char* const data = channel_of(p.q, head, 0);
#pragma unroll 4
  for (int u = static_cast<int>(threadIdx.x); u < T::kRows * kUnits; u += T::kThreads) {
    const int row = u / kUnits;
    const int unit = u % kUnits;
    const bool is_there = first + row < p.row_count;
    std::int64_t token = is_there ? first + row : 0;
    if (is_there && p.rows != nullptr) token = p.rows[head * p.row_count + token];
    const char* at = data + token * p.q.row_bytes + 4 * unit * element_bytes(p.q.view.dtype);
    const float4 x = widen(load_four(at, is_there ? p.q.channels - 4 * unit : 0, p.q.view.dtype), p.q.view.dtype);
    const float f = p.q_factor;
    const int to = row * T::kDepth + 4 * (unit ^ ((row & 1) << 2));
    *reinterpret_cast<float4*>(shared.q + to) = {x.x * f, x.y * f, x.z * f, x.w * f};
  }
}

/// Keys that a row of the block sees; none where there is no such row.
__device__ inline int visible(const ExactParams& p, std::int64_t head, std::int64_t row) {
  if (row >= p.row_count) return 0;
  const auto kv_len = p.k.tokens;
  if (!p.is_causal) return static_cast<int>(kv_len);
  const std::int64_t token = p.rows != nullptr ? p.rows[head * p.row_count + row] : row;
  const std::int64_t seen = token + p.causal_shift + 1;
  return static_cast<int>(seen < 0 ? 0 : (seen > kv_len ? kv_len : seen));
}

/// A warp's rows of S = Q K^T for a tile of keys. s[n][2h + e]: row g + 8h, key 8n + 2q + e.
template <class T>
__device__ void multiply_qk(const float* q_rows, const double* k_tile, int steps, double (&s)[T::kKeys / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4;
  const int quad = lane % 4;
  const int odd = g & 1;
  // Products are summed in any order, so a lane takes four neighbouring channels where the fragment says every fourth.
  const float* q_at = q_rows + g * T::kDepth + 4 * quad;
  const double* k_low = k_tile + g * T::kDepth + 2 * ((2 * quad) ^ odd);
  const double* k_high = k_tile + g * T::kDepth + 2 * ((2 * quad + 1) ^ odd);
#pragma unroll 2
  for (int step = 0; step < steps; ++step) {
    const float* at = q_at + 16 * (step ^ odd);
    const float4 q0 = *reinterpret_cast<const float4*>(at);
    const float4 q1 = *reinterpret_cast<const float4*>(at + 8 * T::kDepth);
    const double a[8] = {q0.x, q1.x, q0.y, q1.y, q0.z, q1.z, q0.w, q1.w};
#pragma unroll
    for (int n = 0; n < T::kKeys / 8; ++n) {
      const double2 low = *reinterpret_cast<const double2*>(k_low + 8 * n * T::kDepth + 16 * step);
      const double2 high = *reinterpret_cast<const double2*>(k_high + 8 * n * T::kDepth + 16 * step);
      const double b[4] = {low.x, low.y, high.x, high.y};
      mma_16x8x16(s[n], a, b);
    }
  }
}

/// Where a lane finds its part of V: fragments of 16 keys, in the order in which S holds them, and 8 columns.
template <int kColumns>
class VFragments {
 public:
  __device__ explicit VFragments(const double* v_tile) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int g = lane / 4;
    const int quad = lane % 4;
    const double* row = v_tile + 2 * quad * kColumns + g % 4;
    even_ = row + 4 * ((g / 4) ^ quad);
    odd_ = row + 4 * ((2 + g / 4) ^ quad);
  }
  __device__ void load(int keys16, int columns8, double (&b)[4]) const {
    const double* at = (columns8 % 2 == 0 ? even_ : odd_) + 16 * keys16 * kColumns + columns8 / 2 * 16;
    b[0] = at[0];
    b[1] = at[kColumns];
    b[2] = at[8 * kColumns];
    b[3] = at[9 * kColumns];
  }

 private:
  const double* even_;
  const double* odd_;
};

/// O += P V over 16 keys.
template <int kColumns>
__device__ void multiply_pv(const double (&p0)[4], const double (&p1)[4], const VFragments<kColumns>& v, int keys16,
                            double (&o)[kColumns / 8][4]) {
  const double a[8] = {p0[0], p0[2], p0[1], p0[3], p1[0], p1[2], p1[1], p1[3]};
#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n) {
    double b[4];
    v.load(keys16, n, b);
    mma_16x8x16(o[n], a, b);
  }
}

/// The same where V has infinities or NaN that some rows must not see, which a P of 0 would not hide: each row in its
/// turn, with zeros for the keys beyond `seen`, the number of keys of the tile that the row sees.
template <int kColumns>
__device__ void multiply_pv_by_row(const double (&p0)[4], const double (&p1)[4], const VFragments<kColumns>& v,
                                   int keys16, const int (&seen)[2], double (&o)[kColumns / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const double a[8] = {p0[0], p0[2], p0[1], p0[3], p1[0], p1[2], p1[1], p1[3]};
  const int key = 16 * keys16 + 2 * (lane % 4);
  for (int row = 0; row < kWarpRows; ++row) {
    const int limit = __shfl_sync(kAllLanes, row < 8 ? seen[0] : seen[1], 4 * (row % 8));
    const bool mine = lane / 4 == row % 8;
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      double b[4];
      v.load(keys16, n, b);
      if (key >= limit) b[0] = 0;
      if (key + 1 >= limit) b[1] = 0;
      if (key + 8 >= limit) b[2] = 0;
      if (key + 9 >= limit) b[3] = 0;
      double c[4] = {0, 0, 0, 0};
      mma_16x8x16(c, a, b);
      if (mine && row < 8) {
        o[n][0] += c[0];
        o[n][1] += c[1];
      } else if (mine) {
        o[n][2] += c[2];
        o[n][3] += c[3];
      }
    }
  }
}

/// Two rows' running reference of the exponentials, in powers of two, and the sum of their P (of this lane's keys).
struct Softmax {
  double m[2] = {-INFINITY, -INFINITY};
  double l[2] = {0, 0};
};

/// Turns raw scores into P = 2^(scale s - m); where a row's maximum has outgrown m, moves m and rescales l and O.
template <int kTiles, int kColumnTiles>
__device__ void online_softmax(double (&s)[kTiles][4], double scale, Softmax& state, double (&o)[kColumnTiles][4]) {
  double top[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) top[i / 2] = s[n][i] > top[i / 2] ? s[n][i] : top[i / 2];
  }
  const bool outgrown = top[0] * scale > state.m[0] + kLag || top[1] * scale > state.m[1] + kLag;
  if (__any_sync(kAllLanes, outgrown)) {
    double alpha[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int step = 1; step < 4; step *= 2) {
        const double other = __shfl_xor_sync(kAllLanes, top[h], step);
        top[h] = other > top[h] ? other : top[h];
      }
      const double m = top[h] * scale;
      // A row moves for its own sake only, so that its bits do not depend on its neighbours.
      alpha[h] = 1;
      if (m > state.m[h] + kLag) {
        double factor[1] = {state.m[h] - m};
        exp2_f64(factor);
        alpha[h] = factor[0];
        state.m[h] = m;
        state.l[h] *= alpha[h];
      }
    }
#pragma unroll
    for (auto& tile : o) {
      tile[0] *= alpha[0];
      tile[1] *= alpha[0];
      tile[2] *= alpha[1];
      tile[3] *= alpha[1];
    }
  }
  // A row that has seen nothing yet keeps m at -infinity; its scores are -infinity too and must give 0.
  const double shift[2] = {state.m[0] == -INFINITY ? 0.0 : state.m[0], state.m[1] == -INFINITY ? 0.0 : state.m[1]};
#pragma unroll
  for (int n = 0; n < kTiles; n += 2) {
    double p[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) p[i] = fma(s[n + i / 4][i % 4], scale, -shift[i / 2 % 2]);
    exp2_f64(p);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      s[n + i / 4][i % 4] = p[i];
      state.l[i / 2 % 2] += p[i];
    }
  }
}

/// Normalises and writes a warp's rows.
template <class T>
__device__ void write_rows(const ExactParams& p, std::int64_t head, std::int64_t first_row, int first_column,
                           const int (&seen)[2], Softmax& state, const double (&o)[T::kColumns / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t columns = p.v.channels;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    double l = state.l[h];
    l += __shfl_xor_sync(kAllLanes, l, 1);
    l += __shfl_xor_sync(kAllLanes, l, 2);
    const std::int64_t row = first_row + lane / 4 + 8 * h;
    if (row >= p.row_count) continue;
    const bool blind = seen[h] == 0;
    const double factor = 1 / l;
    double* out = p.o + (head * p.row_count + row) * columns;
#pragma unroll
    for (int n = 0; n < T::kColumns / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = first_column + 8 * n + 2 * (lane % 4) + e;
        if (column < columns) out[column] = blind ? 0.0 : o[n][2 * h + e] * factor;
      }
    }
    if (p.lse != nullptr && first_column == 0 && lane % 4 == 0) {
      p.lse[head * p.row_count + row] = blind ? -INFINITY : state.m[h] * kLn2 + log(l);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1) exact_kernel(const __grid_constant__ ExactParams p) {
  extern __shared__ __align__(128) char memory[];
  auto& shared = *reinterpret_cast<typename T::Shared*>(memory);

  // The last rows of all heads come first: with a causal mask they see the most keys.
  const std::int64_t block = blockIdx.x;
  const std::int64_t head = block % p.heads;
  const std::int64_t first_row = (p.row_blocks - 1 - block / p.heads) * T::kRows;
  const int first_column = static_cast<int>(blockIdx.y) * T::kColumns;
  const std::int64_t kv_head = head / p.q_heads * p.kv_heads + head % p.q_heads / (p.q_heads / p.kv_heads);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t warp_row = first_row + kWarpRows * warp;

  const int seen[2] = {visible(p, head, warp_row + lane / 4), visible(p, head, warp_row + lane / 4 + 8)};
  const int warp_most = __reduce_max_sync(kAllLanes, max(seen[0], seen[1]));
  const int warp_fewest = __reduce_min_sync(kAllLanes, min(seen[0], seen[1]));
  if (lane == 0) shared.most[warp] = warp_most;
  load_q<T>(p, head, first_row, shared);
  __syncthreads();
  int most = 0;
#pragma unroll
  for (const int m : shared.most) most = max(most, m);

  constexpr int kKeys = T::kKeys;
  typename T::KMover k_mover(p.k, kv_head, 0, shared.k_staging, shared.k);
  typename T::VMover v_mover(p.v, kv_head, first_column, shared.v_staging, shared.v);
  const float* q_rows = shared.q + kWarpRows * warp * T::kDepth;
  const VFragments<T::kColumns> v(shared.v);
  const int turn = warp < T::kWarps / 2 ? 0 : 1;  // in which half of each phase this warp places its part of the tile
  double o[T::kColumns / 8][4] = {};
  Softmax state;

  if (most > 0) {
    k_mover.fetch(0);
    v_mover.fetch(0);
    k_mover.template place<1>(kKeys);
  }
  for (int first = 0; first < most; first += kKeys) {
    const bool works = first < warp_most;
    const bool masked = first + kKeys > warp_fewest;
    __syncthreads();  // K is here, and nobody reads the last V any more
    bool v_finite = true;
    double s[kKeys / 8][4] = {};
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      if (half == turn) {
        v_finite = v_mover.template place<1>(first + kKeys);
      } else if (works) {
        multiply_qk<T>(q_rows, shared.k, p.steps, s);
      }
    }
    v_finite = __syncthreads_and(v_finite);  // V is here, and nobody reads this K any more
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      if (half == turn) {
        k_mover.template place<1>(first + 2 * kKeys);
        continue;
      }
      if (!works) continue;
      const int here[2] = {seen[0] - first, seen[1] - first};
      if (masked) {
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if (8 * n + 2 * (lane % 4) + i % 2 >= here[i / 2]) s[n][i] = -INFINITY;
          }
        }
      }
      online_softmax(s, p.score_scale, state, o);
      if (masked && !v_finite) {
#pragma unroll
        for (int t = 0; t < kKeys / 16; ++t) multiply_pv_by_row<T::kColumns>(s[2 * t], s[2 * t + 1], v, t, here, o);
      } else {
#pragma unroll
        for (int t = 0; t < kKeys / 16; ++t) multiply_pv<T::kColumns>(s[2 * t], s[2 * t + 1], v, t, o);
      }
    }
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
  write_rows<T>(p, head, warp_row, first_column, seen, state, o);
}

}  // namespace sage2::cuda
