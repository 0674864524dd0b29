#pragma once

#include "kernels/sm90_prepare_ring.cuh"

/// dS of smooth Q, by tensor cores.
namespace sage2::cuda::sm90 {

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

__device__ __forceinline__ void load_matrix(std::uint32_t (&a)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(shared_address(row)));
}

/// Counts a block of queries whose mean is written. The last one of all heads of a group computes the products of these
/// means with K's mean, by which dS is shifted.
template <int kDim, class T>
__device__ void count_mean(const PrepareParams& p, PrepareShared<kDim>& s, int kv) {
  const Progress progress = progress_of(p);
  const int rows = p.group * p.q_blocks;
  if (!complete(progress.q_blocks + kv, rows, s.last)) return;
  if (p.options.smooth_k) {
    if (threadIdx.x == 0) await(progress.k_ready + kv);
    workers_sync();
  }
  const std::int64_t first = static_cast<std::int64_t>(kv) * rows;
  const T* const q_mean = part<T>(p, p.at.q_mean) + first * 2 * kDim;
  const float* const k_mean = part<float>(p, p.at.k_mean) + static_cast<std::int64_t>(kv) * kDim;
  // Eight threads a row.
  for (int from = 0; from < rows; from += kWorkers / 8) {
    const int row = from + static_cast<int>(threadIdx.x) / 8;
    const T* const mean = q_mean + min(row, rows - 1) * 2 * kDim;
    float sum = 0;
#pragma unroll 8
    for (int c = threadIdx.x % 8; c < kDim; c += 8) {
      const auto value = [&](int at) {
        const unsigned short bits = __ldcg(reinterpret_cast<const unsigned short*>(mean) + at);
        return to_float(*reinterpret_cast<const T*>(&bits));
      };
      sum = fmaf(value(c) + value(kDim + c), p.options.smooth_k ? __ldcg(k_mean + c) : 0.0F, sum);
    }
    for (int step = 4; step > 0; step /= 2) sum += __shfl_xor_sync(~0U, sum, step);
    if (threadIdx.x % 8 == 0 && row < rows) part<float>(p, p.at.q_shift)[first + row] = sum;
  }
  publish(progress.q_ready + kv);
}

/// dS of one key tile for every block of every query head of the group. K is taken as captured: its 16-bit values are
/// exact operands. K' differs by its mean, which shifts a block's whole row of dS by a constant, and that is subtracted
/// so that dS stays as small as the variant means it (the softmax would cancel it).
template <int kDim, class T>
__device__ void delta_scores(Ring<kDim, T>& ring, const Tile& tile) {
  using S = PrepareShared<kDim>;
  const PrepareParams& p = ring.p;
  S& s = ring.s;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int key = threadIdx.x / 32 * 16;  // a warp's 16 keys, two columns of 8
  // B: K^T, kept in registers over all blocks: b[k][2 n + half].
  std::uint32_t b[kDim / 16][4];
  {
    const int row = min(key + lane / 16 * 8 + lane % 8, tile.count - 1);
    const std::uint8_t* const from = ring.rows() + row * tile.pitch + lane / 8 % 2 * 16;
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) load_matrix(b[k], from + k * 32);
  }
  ring.release();
  const float factor = static_cast<float>(static_cast<double>(p.sm_scale) * 1.4426950408889634);
  // Rows of q_mean and of delta_s: the blocks of the first head, of the second, ... Blocks before `least` do not see
  // the tile: nobody reads their dS. The others are counted through.
  const int least = p.is_causal ? min(p.q_blocks, max(0, tile.first - p.causal_shift) / kMeanRows) : 0;
  const int visible = p.q_blocks - least;
  const int rows = p.group * visible;
  const auto row_of = [&](int i) { return p.group == 1 ? least + i : i / visible * p.q_blocks + least + i % visible; };
  const std::int64_t first_row = static_cast<std::int64_t>(tile.head) * p.group * p.q_blocks;
  const auto* const q_mean = reinterpret_cast<const uint4*>(part<T>(p, p.at.q_mean) + first_row * 2 * kDim);
  const float* const shifts = part<float>(p, p.at.q_shift) + first_row;
  const std::int64_t keys = static_cast<std::int64_t>(p.k_tiles) * kTileKeys;
  float* const out = part<float>(p, p.at.delta_s) + first_row * keys + tile.first + key + 2 * t;

  // The means of the next blocks are on their way while these are multiplied.
  constexpr int kLoads = kDeltaRows * 2 * S::kChunks / kWorkers;
  uint4 next[kLoads];
  float next_shift = 0;
  const auto load = [&](int first) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int at = i * kWorkers + static_cast<int>(threadIdx.x);
      const int row = row_of(min(first + at / (2 * S::kChunks), rows - 1));
      next[i] = __ldcg(q_mean + row * 2 * S::kChunks + at % (2 * S::kChunks));
    }
    if (threadIdx.x < kDeltaRows)
      next_shift = __ldcg(shifts + row_of(min(first + static_cast<int>(threadIdx.x), rows - 1)));
  };
  if (rows > 0) load(0);
  for (int first = 0; first < rows; first += kDeltaRows) {
    workers_sync();
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int at = i * kWorkers + static_cast<int>(threadIdx.x);
      const int row = at / (2 * S::kChunks);
      const int inside = at % (2 * S::kChunks);
      *reinterpret_cast<uint4*>(s.q_mean[inside / S::kChunks] + row * S::kRowBytes + inside % S::kChunks * 16) =
          next[i];
    }
    if (threadIdx.x < kDeltaRows) s.shift[threadIdx.x] = next_shift;
    workers_sync();
    if (first + kDeltaRows < rows) load(first + kDeltaRows);
    float d[2][2][4] = {};
#pragma unroll
    for (int level = 1; level >= 0; --level) {  // the low halves first
#pragma unroll
      for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          std::uint32_t a[4];
          load_matrix(a, s.q_mean[level] + (m * 16 + lane % 16) * S::kRowBytes + k * 32 + lane / 16 * 16);
          mma_16816<T>(d[m][0], a, b[k][0], b[k][1]);
          mma_16816<T>(d[m][1], a, b[k][2], b[k][3]);
        }
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int i = m * 16 + g + 8 * r;
        if (first + i >= rows) continue;
        const float shift = s.shift[i];
        float* const to = out + row_of(first + i) * keys;
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const float2 value = {(d[m][n][2 * r] - shift) * factor, (d[m][n][2 * r + 1] - shift) * factor};
          *reinterpret_cast<float2*>(to + n * 8) = value;
        }
      }
    }
  }
}

}  // namespace sage2::cuda::sm90
