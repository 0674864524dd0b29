#pragma once

#include "kernels/sm90_prepare.cuh"
#include "kernels/sm90_tensor_map.hpp"

/// The ring that brings the jobs' rows.
namespace sage2::cuda::sm90 {

/// What a tile needs beside its rows: waits for it and leaves it in the stage. The whole warp.
template <int kDim, class T>
__device__ __forceinline__ void bring_channels(const PrepareParams& p, Channel* to, JobKind kind, int head, int lane) {
  const Progress progress = progress_of(p);
  // Written by other blocks while this kernel runs: not through the read-only cache.
  const auto value = [&](std::size_t offset, int c) { return __ldcg(part<float>(p, offset) + head * kDim + c); };
  if (kind == JobKind::v_codes) {
    if (lane == 0) await(progress.v_ready + head, 1);
    __syncwarp();
    for (int c = lane; c < kDim; c += 32) {
      const float mean = value(p.at.v_mean, c);
      const float scale = value(p.at.v_scale, c);
      to[c] = {mean, scale, scale > 0x1p-80F && scale < 0x1p80F ? inverse_of(scale) : 0.0F};
    }
  } else if (kind == JobKind::k_codes) {
    if (p.options.smooth_k) {
      if (lane == 0) await(progress.k_ready + head, 1);
      __syncwarp();
    }
    for (int c = lane; c < kDim; c += 32) to[c].mean = p.options.smooth_k ? value(p.at.k_mean, c) : 0.0F;
    if (p.options.smooth_q && lane == 0) await(progress.q_blocks + head, p.group * p.q_blocks);
  } else if (is_query(kind) && p.options.smooth_q) {
    const T* const key = token<T>(p.k, head / p.group, reference_key(p.kv_len));
    for (int c = lane; c < kDim; c += 32) {
      to[c].mean = p.options.smooth_k && c < p.head_dim ? to_float(key[c]) : 0.0F;
    }
  }
}

/// Starts the copies of a tile's rows. Rows beyond the last, and channels beyond head_dim, become zeros.
template <int kDim>
__device__ __forceinline__ void bring_rows(const PrepareParams& p, const PrepareMaps& maps, PrepareShared<kDim>& s,
                                           int stage, const Job& job, int first, int lane) {
  Barrier& full = s.full[stage];
  if (lane > 0) return full.arrive();
  // K is looked at twice, and so is V where all of its codes are made here.
  const bool again =
      job.kind == JobKind::k_statistics || (job.kind == JobKind::v_statistics && p.v_heads == p.kv_count);
  const std::uint64_t policy = cache_policy(!again);
  const bool is_q = is_query(job.kind);
  const bool is_v = is_value(job.kind);
  const bool wide = is_q ? p.wide_q : (is_v ? p.wide_v : p.wide_k);
  s.tile[stage] = {job.kind, job.head, first, min(kJobRows, job.end - first), wide ? 1 : 0};
  if (!wide) return full.arrive();
  const int heads = static_cast<int>(is_q ? p.q.heads : p.k.heads);
  const int batch = job.head / heads;
  const CUtensorMap& map = is_q ? maps.q : (is_v ? maps.v : maps.k);
  fence_before_bulk_copy();
  full.expect(sizeof(s.raw[0]));
  copy_rows<kDim, kJobRows>(s.raw[stage], map, first, job.head - batch * heads, batch, full, policy);
}

/// The warp that keeps the ring full.
template <int kDim, class T>
__device__ void bring_jobs(const PrepareParams& p, const PrepareMaps& maps, PrepareShared<kDim>& s) {
  const int lane = threadIdx.x % 32;
  int* const tickets = progress_of(p).ticket;
  RingPosition<PrepareShared<kDim>::kStages> at;
  int next = 0;
  if (lane == 0) next = atomicAdd(tickets, 1);
  for (;;) {
    const Job job = job_of(p, __shfl_sync(~0U, next, 0));
    if (job.kind == JobKind::none) break;
    for (int first = job.first; first < job.end; first += kJobRows) {
      const bool last = first + kJobRows >= job.end;
      // Not sooner: what a ticket stands for is late by as long as it is held.
      if (lane == 0 && last) next = atomicAdd(tickets, 1);
      s.empty[at.stage].wait(at.parity ^ 1);
      bring_rows(p, maps, s, at.stage, job, first, lane);
      // Means of queries need the key at their end only.
      if (last || job.kind != JobKind::q_means)
        bring_channels<kDim, T>(p, s.channel[at.stage], job.kind, job.head, lane);
      s.full[at.stage].arrive();
      at.advance();
    }
  }
  s.empty[at.stage].wait(at.parity ^ 1);
  if (lane == 0) s.tile[at.stage].kind = JobKind::none;
  for (int i = 0; i < 2; ++i) s.full[at.stage].arrive();
}

/// Channels first .. first + 7 of a row; zeros beyond head_dim.
template <class T>
__device__ __noinline__ uint4 load_chunk_slowly(const T* row, int first, int head_dim) {
  // Expanded or flipped tensors have strides that the copy engine refuses, but aligned rows.
  const bool whole = first + 8 <= head_dim && reinterpret_cast<std::uintptr_t>(row + first) % 16 == 0;
  if (whole) return *reinterpret_cast<const uint4*>(row + first);
  alignas(16) T out[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) out[i] = first + i < head_dim ? row[first + i] : T(0.0F);
  return *reinterpret_cast<const uint4*>(out);
}

/// A tile that the copy engine cannot read.
template <int kDim, class T>
__device__ __noinline__ void load_rows_slowly(const PrepareParams& p, std::uint8_t* rows, const Tile& tile) {
  constexpr int kChunks = PrepareShared<kDim>::kChunks;
  const bool is_v = is_value(tile.kind);
  const bool is_q = is_query(tile.kind);
  const TensorView& tensor = is_q ? p.q : (is_v ? p.v : p.k);
  const T* const head = head_of<T>(tensor, tile.head);
  for (int i = static_cast<int>(threadIdx.x); i < kJobRows * kChunks; i += kWorkers) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    uint4 bits = {0, 0, 0, 0};
    if (row < tile.count) {
      bits = load_chunk_slowly(head + (tile.first + row) * tensor.stride_token, chunk * 8, p.head_dim);
    }
    *reinterpret_cast<uint4*>(rows + raw_offset(row, chunk)) = bits;
  }
  fence_before_bulk_copy();  // for the tensor cores of dS, too
  workers_sync();
}

/// A place in a ring as one number, where registers are short.
template <int kStages>
struct RingCount {
  unsigned count = 0;
  [[nodiscard]] __device__ __forceinline__ int stage() const { return static_cast<int>(count % kStages); }
  [[nodiscard]] __device__ __forceinline__ std::uint32_t parity() const { return count / kStages % 2; }
};

/// A worker's place in the ring.
template <int kDim, class T>
struct Ring {
  using Shared = PrepareShared<kDim>;
  const PrepareParams& p;
  Shared& s;
  RingCount<Shared::kStages> at = {};
  unsigned means_taken = 0;  ///< parts of means of queries, of all tiles of K before

  /// Waits for the next tile. Rows beyond the last are zeros.
  __device__ __forceinline__ Tile take() {
    s.full[at.stage()].wait(at.parity());
    const Tile tile = s.tile[at.stage()];
    if (tile.kind != JobKind::none && tile.copied == 0) load_rows_slowly<kDim, T>(p, rows(), s.tile[at.stage()]);
    return tile;
  }
  /// Where part i of the means for this tile's dS comes.
  [[nodiscard]] __device__ __forceinline__ RingCount<Shared::kSlots> means(int i) const {
    return {means_taken + static_cast<unsigned>(i)};
  }
  [[nodiscard]] __device__ __forceinline__ std::uint8_t* rows() const { return s.raw[at.stage()]; }
  /// This thread's chunk of its first row; its other rows are kPassBytes apart.
  [[nodiscard]] __device__ __forceinline__ const std::uint8_t* mine() const {
    return rows() + raw_offset(threadIdx.x / Shared::kChunks, threadIdx.x % Shared::kChunks);
  }
  [[nodiscard]] __device__ __forceinline__ const Channel* channels() const { return s.channel[at.stage()]; }
  /// This thread needs the stage no longer. (One arrival a warp would do, but racecheck would not understand it.)
  __device__ __forceinline__ void release() {
    s.empty[at.stage()].arrive();
    ++at.count;
  }
};

}  // namespace sage2::cuda::sm90
