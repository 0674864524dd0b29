#include <algorithm>
#include <numbers>
#include <stdexcept>

#include "kernels/cuda_check.hpp"
#include "kernels/sm90_attention.hpp"
#include "kernels/sm90_prepare.hpp"
#include "kernels/sm90_prepare_values.cuh"
#include "reference/formats.hpp"

namespace sage2::cuda::sm90 {
namespace {

/// Jobs of one head: first the statistics of K and V and all of its queries, `lag` heads later the codes of K and V,
/// while these are still in L2.
struct JobCounts {
  int k_statistics, v_statistics, q_blocks, tiles;
  __host__ __device__ int early() const { return k_statistics + v_statistics + q_blocks; }
  __host__ __device__ int late() const { return 2 * tiles; }
};

__host__ __device__ JobCounts job_counts(const PrepareParams& p) {
  return {p.options.smooth_k ? p.chunks : 0, p.chunks, p.group * p.q_blocks, p.k_tiles};
}

template <int kDim>
union JobShared {
  RowsShared<kDim> rows;
  ValuesShared<kDim> values;
  DeltaShared<kDim> delta;
  __device__ JobShared() {}
};

template <int kDim, class T>
__global__ void __launch_bounds__(kPrepareThreads, kDim == 64 ? 4 : (kDim == 128 ? 3 : 2))
    prepare_kernel(const __grid_constant__ PrepareParams p) {
  extern __shared__ __align__(16) std::uint8_t raw[];
  auto& s = *reinterpret_cast<JobShared<kDim>*>(raw);
  __shared__ int ticket;
  const Progress progress = progress_of(p);
  // Jobs wait for jobs with earlier tickets only, and those have started: whatever the order in which the hardware
  // starts blocks, nothing waits for ever.
  if (threadIdx.x == 0) ticket = atomicAdd(progress.ticket, 1);
  __syncthreads();
  const JobCounts jobs = job_counts(p);
  const int early = jobs.early();
  const int late = jobs.late();
  int head, job;
  bool is_early;
  int index = ticket;
  const int lead = p.lag * early;
  const int both = (p.kv_count - p.lag) * (early + late);
  if (index < lead) {
    head = index / early;
    job = index % early;
    is_early = true;
  } else if (index - lead < both) {
    index -= lead;
    head = index / (early + late);
    job = index % (early + late);
    is_early = job < early;
    if (is_early) {
      head += p.lag;
    } else {
      job -= early;
    }
  } else {
    index -= lead + both;
    head = p.kv_count - p.lag + index / late;
    job = index % late;
    is_early = false;
  }

  if (is_early) {
    if (job < jobs.k_statistics) return k_statistics<kDim, T>(p, s.rows, head, job);
    job -= jobs.k_statistics;
    if (job < jobs.v_statistics) return v_statistics<kDim, T>(p, s.rows, head, job);
    job -= jobs.v_statistics;
    const std::int64_t q_head = static_cast<std::int64_t>(head) * p.group + job / p.q_blocks;
    const int first = job % p.q_blocks * kMeanRows;
    if (!p.options.smooth_q) {
      quantize_rows<kDim, T, true, false>(p, s.rows, q_head, first, nullptr);
    } else {
      quantize_rows<kDim, T, true, true>(p, s.rows, q_head, first, nullptr);
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) atomicAdd(progress.q_done + head, 1);
    }
    return;
  }
  if (job < jobs.tiles) {
    const float* mean = nullptr;
    if (p.options.smooth_k) {
      await(progress.k_ready + head, 1);
      float* const copy = s.rows.mean;
      if (threadIdx.x < kDim) copy[threadIdx.x] = __ldcg(part<float>(p, p.at.k_mean) + head * kDim + threadIdx.x);
      __syncthreads();
      mean = copy;
    }
    quantize_rows<kDim, T, false, true>(p, s.rows, head, job * kTileKeys, mean);
    if (p.options.smooth_q) {
      await(progress.q_done + head, jobs.q_blocks);
      delta_scores<kDim, T>(p, s.delta, head, job);
    }
    return;
  }
  v_codes<kDim, T>(p, s.values, head, job - jobs.tiles);
}

/// q . k_mean sm_scale for every query row: what smooth K takes from the log-sum-exp. One warp a row.
template <class T>
__global__ void lse_shift_kernel(const __grid_constant__ PrepareParams p, int dim) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= static_cast<std::int64_t>(p.q_count) * p.q_len) return;
  const std::int64_t head = row / p.q_len;
  const std::int64_t kv = head / p.group;
  const T* const q = token<T>(p.q, head, row % p.q_len);
  const float* const mean = part<float>(p, p.at.k_mean) + kv * dim;
  float sum = 0;
  for (int c = threadIdx.x % 32; c < p.head_dim; c += 32) sum = fmaf(to_float(q[c]), mean[c], sum);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0U, sum, step);
  if (threadIdx.x % 32 == 0) part<float>(p, p.at.lse_shift)[row] = sum * p.sm_scale;
}

PrepareParams prepare_params(const DeviceProblem& problem, const PrepareOptions& options, const Workspace& at,
                             void* workspace) {
  PrepareParams p{};
  p.q = problem.q;
  p.k = problem.k;
  p.v = problem.v;
  p.options = options;
  p.at = at;
  p.base = static_cast<std::uint8_t*>(workspace);
  p.q_count = static_cast<int>(problem.q_count());
  p.kv_count = static_cast<int>(problem.kv_count());
  p.group = static_cast<int>(problem.q.heads / problem.k.heads);
  p.q_len = static_cast<int>(problem.q.tokens);
  p.kv_len = static_cast<int>(problem.k.tokens);
  p.head_dim = static_cast<int>(problem.q.channels);
  p.q_tiles = (p.q_len + kTileRows - 1) / kTileRows;
  p.k_tiles = (p.kv_len + kTileKeys - 1) / kTileKeys;
  p.q_blocks = (p.q_len + kMeanRows - 1) / kMeanRows;
  p.chunks = (p.kv_len + kStatisticsRows - 1) / kStatisticsRows;
  // The second look comes when the first is surely over: 400 to 500 jobs run at a time. K and V are then still in L2.
  const JobCounts jobs = job_counts(p);
  p.lag = std::min(p.kv_count, 1 + 600 / (jobs.early() + jobs.late()));
  p.sm_scale = problem.sm_scale;
  p.is_causal = problem.is_causal ? 1 : 0;
  p.causal_shift = static_cast<int>(problem.causal_shift());
  p.dtype = problem.q.dtype;
  p.top = format_top(options.qk);
  const auto wide = [&](const TensorView& t) {
    return reinterpret_cast<std::uintptr_t>(t.data) % 16 == 0 && t.stride_batch % 8 == 0 && t.stride_head % 8 == 0 &&
           t.stride_token % 8 == 0 && p.head_dim % 8 == 0;
  };
  p.wide_q = wide(p.q);
  p.wide_k = wide(p.k);
  p.wide_v = wide(p.v);
  return p;
}

template <int kDim, class T>
void launch(const PrepareParams& p, cudaStream_t stream) {
  const JobCounts jobs = job_counts(p);
  const std::int64_t blocks = static_cast<std::int64_t>(p.kv_count) * (jobs.early() + jobs.late());
  constexpr int kShared = static_cast<int>(sizeof(JobShared<kDim>));
  SAGE2_CUDA_CHECK(cudaFuncSetAttribute(prepare_kernel<kDim, T>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  prepare_kernel<kDim, T><<<static_cast<unsigned>(blocks), kPrepareThreads, kShared, stream>>>(p);
  SAGE2_CUDA_CHECK_LAUNCH(prepare_kernel);
}

}  // namespace

Workspace plan_workspace(const DeviceProblem& problem, const PrepareOptions& options, bool with_lse) {
  const auto p = prepare_params(problem, options, {}, nullptr);
  const std::size_t dim = static_cast<std::size_t>(padded_head_dim(p.head_dim));
  const std::size_t q_count = p.q_count;
  const std::size_t kv_count = p.kv_count;
  const std::size_t q_rows = static_cast<std::size_t>(p.q_tiles) * kTileRows;
  const std::size_t keys = static_cast<std::size_t>(p.k_tiles) * kTileKeys;
  Workspace w{};
  const auto take = [&](std::size_t bytes) {
    const std::size_t at = w.bytes;
    w.bytes += (bytes + 1023) / 1024 * 1024;
    return at;
  };
  w.progress_bytes = progress_bytes(p.kv_count);
  w.progress = take(w.progress_bytes);
  w.q = take(q_count * q_rows * dim);
  w.k = take(kv_count * keys * dim);
  w.v = take(kv_count * keys * dim);
  w.q_scale = take(q_count * q_rows * sizeof(float));
  w.k_scale = take(kv_count * p.k_tiles * 4 * sizeof(float));
  w.v_scale = take(kv_count * dim * sizeof(float));
  w.v_mean = take(kv_count * dim * sizeof(float));
  w.k_mean = take(kv_count * dim * sizeof(float));
  w.k_sums = take(options.smooth_k ? kv_count * p.chunks * dim * sizeof(double) : 0);
  w.v_partial = take(kv_count * p.chunks * 3 * dim * sizeof(double));
  w.q_mean = take(options.smooth_q ? q_count * p.q_blocks * 2 * dim * sizeof(std::uint16_t) : 0);
  w.delta_s = take(options.smooth_q ? q_count * p.q_blocks * keys * sizeof(float) : 0);
  w.lse_shift = take(with_lse && options.smooth_k ? q_count * p.q_len * sizeof(float) : 0);
  return w;
}

void prepare(const DeviceProblem& problem, const PrepareOptions& options, const Workspace& at, void* workspace,
             bool with_lse, cudaStream_t stream) {
  const auto p = prepare_params(problem, options, at, workspace);
  SAGE2_CUDA_CHECK(cudaMemsetAsync(p.base + at.progress, 0, at.progress_bytes, stream));
  with_element_type(p.dtype, [&]<class T>(const T*) {
    if constexpr (std::is_same_v<T, float>) {
      throw std::invalid_argument("prepare: FP16 or BF16 tensors are expected");
    } else {
      switch (padded_head_dim(p.head_dim)) {
        case 64:
          launch<64, T>(p, stream);
          break;
        case 128:
          launch<128, T>(p, stream);
          break;
        default:
          launch<256, T>(p, stream);
      }
      if (with_lse && options.smooth_k) {
        const std::int64_t rows = static_cast<std::int64_t>(p.q_count) * p.q_len;
        lse_shift_kernel<T><<<static_cast<unsigned>((rows + 7) / 8), 256, 0, stream>>>(p, padded_head_dim(p.head_dim));
        SAGE2_CUDA_CHECK_LAUNCH(lse_shift_kernel);
      }
    }
  });
}

AttentionParams attention_params(const DeviceProblem& problem, const PrepareOptions& options, const Workspace& at,
                                 void* workspace, bool with_lse) {
  const auto p = prepare_params(problem, options, at, workspace);
  AttentionParams a{};
  std::uint8_t* const base = p.base;
  const auto floats = [&](std::size_t offset) { return reinterpret_cast<const float*>(base + offset); };
  a.q = base + at.q;
  a.k = base + at.k;
  a.v = base + at.v;
  a.q_scale = floats(at.q_scale);
  a.k_scale = floats(at.k_scale);
  a.v_scale = floats(at.v_scale);
  a.v_mean = options.smooth_v ? floats(at.v_mean) : nullptr;
  a.delta_s = options.smooth_q ? floats(at.delta_s) : nullptr;
  a.lse_shift = with_lse && options.smooth_k ? floats(at.lse_shift) : nullptr;
  a.next_tile = reinterpret_cast<int*>(base + at.progress) + 1;
  set_shape(a, problem);
  return a;
}

}  // namespace sage2::cuda::sm90
