#include <algorithm>
#include <limits>
#include <numbers>
#include <stdexcept>

#include "kernels/cuda_check.hpp"
#include "kernels/sm90_attention.hpp"
#include "kernels/sm90_prepare.hpp"
#include "kernels/sm90_prepare_delta.cuh"
#include "kernels/sm90_prepare_values.cuh"
#include "kernels/sm90_tensor_map.hpp"
#include "kernels/sm90_work.hpp"
#include "reference/formats.hpp"

namespace sage2::cuda::sm90 {
namespace {

template <bool kSmoothQ, int kDim, class T>
__device__ __forceinline__ void work(const PrepareParams& p, PrepareShared<kDim>& s) {
  Ring<kDim, T> ring{p, s};
  for (;;) {
    const Tile tile = ring.take();
    // The same for all lanes, which the compiler cannot know otherwise: the products of dS take whole warps.
    switch (static_cast<JobKind>(once(static_cast<std::uint32_t>(tile.kind)))) {
      case JobKind::k_statistics:
        k_statistics<kDim, T>(ring, tile);
        break;
      case JobKind::v_statistics:
        v_statistics<kDim, T>(ring, tile);
        break;
      case JobKind::q_codes:
        quantize_rows<kDim, T, true, kSmoothQ>(ring, tile);
        break;
      case JobKind::q_means:
        if constexpr (kSmoothQ) q_means(ring, tile);
        break;
      case JobKind::k_codes:
        if constexpr (kSmoothQ) {
          DeltaScores<kDim, T> scores(ring, tile);
          quantize_rows<kDim, T, false, true>(ring, tile);
          scores.finish();
        } else {
          quantize_rows<kDim, T, false, false>(ring, tile);
        }
        break;
      case JobKind::v_codes:
        v_codes<kDim, T>(ring, tile);
        break;
      case JobKind::none:
        return;
    }
  }
}

/// Blocks that share a multiprocessor, by shared memory.
template <int kDim>
inline constexpr int kBlocks = kDim == 64 ? 3 : 2;

template <int kDim, class T, bool kSmoothQ>
__global__ void __launch_bounds__(kPrepareThreads, kBlocks<kDim>)
    prepare_kernel(const __grid_constant__ PrepareParams p, const __grid_constant__ PrepareMaps maps) {
  using S = PrepareShared<kDim>;
  // Dynamic shared memory begins at a multiple of 1024 bytes, since there is no other.
  extern __shared__ __align__(1024) std::uint8_t raw[];
  auto& s = *reinterpret_cast<S*>(raw);
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; ++i) {
      s.full[i].init(2 * 32);  // every lane that brings: for its rows, and for what they need beside them
      s.empty[i].init(kWorkers);
    }
    for (int i = 0; i < S::kSlots; ++i) {
      s.means_full[i].init(1);
      s.means_empty[i].init(kWorkers);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < kWorkers) {
    work<kSmoothQ, kDim, T>(p, s);
  } else {
    bring_jobs<kDim, T>(p, maps, s);
  }
}

/// What smooth K takes from the log-sum-exp, for every query row: q . k_mean sm_scale; with smooth Q q is without its
/// block's mean there, and dS takes this mean's product with the reference key. One warp a row.
template <class T>
__global__ void lse_shift_kernel(const __grid_constant__ PrepareParams p, int dim) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= static_cast<std::int64_t>(p.q_count) * p.q_len) return;
  const std::int64_t head = row / p.q_len;
  const std::int64_t kv = head / p.group;
  const T* const q = token<T>(p.q, head, row % p.q_len);
  const float* const mean = part<float>(p, p.at.k_mean) + kv * dim;
  float sum = 0;
  if (p.options.smooth_q) {
    const float* const q_mean =
        part<float>(p, p.at.q_block_mean) + (head * p.q_blocks + row % p.q_len / kMeanRows) * dim;
    const T* const key = token<T>(p.k, kv, reference_key(p.kv_len));
    for (int c = threadIdx.x % 32; c < p.head_dim; c += 32) {
      sum = fmaf(to_float(q[c]) - q_mean[c], mean[c], sum);
      sum = fmaf(q_mean[c], to_float(key[c]), sum);
    }
  } else {
    for (int c = threadIdx.x % 32; c < p.head_dim; c += 32) sum = fmaf(to_float(q[c]), mean[c], sum);
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0U, sum, step);
  if (threadIdx.x % 32 == 0) part<float>(p, p.at.lse_shift)[row] = sum * p.sm_scale;
}

/// What Codes says of Q: with smooth Q at 128 columns and up to 8 tiles of keys these are too few to hide the work
/// behind.
bool writes_q_codes(const DeviceProblem& problem, const PrepareOptions& options) {
  if (options.q_codes != Codes::chosen) return options.q_codes == Codes::prepared;
  const int dim = padded_head_dim(static_cast<int>(problem.q.channels));
  return options.smooth_q && dim == 128 && problem.k.tokens <= 8 * kTileKeys;
}

/// Query heads of a group whose codes of V the attention kernel makes: the fewer the better, since those of the first
/// groups are made here; but enough pieces of work that codes are there in time.
int group_heads(const PrepareParams& p, int dim) {
  // Four rounds of 132 multiprocessors with a mask, one and a half without; two of the longer pieces of 256 columns.
  const int narrow = p.is_causal != 0 ? 4 * 132 : 3 * 132 / 2;
  const int pieces = dim == 256 ? 2 * 132 : narrow;
  const int rows = (dim == 64 ? 4 : (dim == 128 ? 3 : 2)) * kTileRows;
  const int limit = std::clamp(pieces / (p.group * ((p.q_len + rows - 1) / rows)), 1, p.kv_count);
  return p.group * even_group(p.kv_count, limit);
}

/// Heads whose codes of V are written here, by what Codes says: all of them where the attention kernel cannot, or has
/// too little work to hide them behind. If it can and has, `rows` becomes Values::rows.
int v_heads(const PrepareParams& p, int dim, CUtensorMap& rows) {
  const int first = std::min(p.kv_count, groups_ahead(p.is_causal != 0) * p.group_heads / p.group);
  if (p.q_codes || !makes_values(dim, p.options.smooth_q) || p.options.v_codes == Codes::prepared) return p.kv_count;
  if (p.options.v_codes == Codes::chosen) {
    const int sees = p.is_causal != 0 ? std::clamp(p.q_len / 2 + p.causal_shift, 0, p.kv_len) : p.kv_len;
    // Tiles that the middle query sees.
    const int narrow = p.is_causal != 0 && !p.options.smooth_q ? 8 : 16;
    const int least = dim == 256 ? (p.options.smooth_q ? 8 : 2) : narrow;
    if (sees < least * kTileKeys || p.kv_count < 4 * first || p.kv_len > 2 * p.group * p.q_len) {
      return p.kv_count;
    }
  }
  // values_at multiplies pieces and units of a group in 32 bits: too few from 2 million tokens of 256 channels on.
  const std::int64_t pieces = static_cast<std::int64_t>(p.group_heads) * ((p.q_len + kTileRows - 1) / kTileRows);
  const std::int64_t units = static_cast<std::int64_t>(p.group_heads / p.group) *
                             ((p.kv_len + kTileKeys - 1) / kTileKeys * (kTileKeys / unit_keys(dim)));
  if (pieces > std::numeric_limits<int>::max() / units) return p.kv_count;
  return describe(p.v, kSegmentRows, rows) ? first : p.kv_count;
}

/// v_rows: for v_heads; null where it is of no interest who makes codes of V, as for the layout of a workspace.
PrepareParams prepare_params(const DeviceProblem& problem, const PrepareOptions& options, const Workspace& at,
                             void* workspace, CUtensorMap* v_rows) {
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
  const int dim = padded_head_dim(p.head_dim);
  p.q_codes = writes_q_codes(problem, options);
  p.is_causal = problem.is_causal ? 1 : 0;
  p.causal_shift = static_cast<int>(problem.causal_shift());
  p.group_heads = group_heads(p, dim);
  p.v_heads = v_rows != nullptr ? v_heads(p, dim, *v_rows) : p.kv_count;
  plan_jobs(p, dim);
  p.sm_scale = problem.sm_scale;
  p.delta_scale = static_cast<float>(static_cast<double>(problem.sm_scale) * std::numbers::log2e);
  p.dtype = problem.q.dtype;
  p.top = format_top(options.qk);
  return p;
}

template <int kDim, class T, bool kSmoothQ>
void launch(PrepareParams p, cudaStream_t stream) {
  PrepareMaps maps{};
  p.wide_q = describe(p.q, kJobRows, maps.q);
  p.wide_k = describe(p.k, kJobRows, maps.k);
  p.wide_v = describe(p.v, kJobRows, maps.v);
  int device = 0;
  int multiprocessors = 0;
  SAGE2_CUDA_CHECK(cudaGetDevice(&device));
  SAGE2_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  constexpr int kShared = static_cast<int>(sizeof(PrepareShared<kDim>));
  static_assert(kBlocks<kDim> * (kShared + 1024) <= 228 * 1024);
  const auto kernel = prepare_kernel<kDim, T, kSmoothQ>;
  SAGE2_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  const std::int64_t blocks = std::min<std::int64_t>(all_jobs(p), multiprocessors * kBlocks<kDim>);
  kernel<<<static_cast<unsigned>(blocks), kPrepareThreads, kShared, stream>>>(p, maps);
  SAGE2_CUDA_CHECK_LAUNCH(prepare_kernel);
}

}  // namespace

Workspace plan_workspace(const DeviceProblem& problem, const PrepareOptions& options, bool with_lse) {
  const auto p = prepare_params(problem, options, {}, nullptr, nullptr);
  const std::size_t dim = static_cast<std::size_t>(padded_head_dim(p.head_dim));
  const std::size_t q_count = p.q_count;
  const std::size_t kv_count = p.kv_count;
  const std::size_t q_rows = static_cast<std::size_t>(p.q_tiles) * kTileRows;
  const std::size_t keys = static_cast<std::size_t>(p.k_tiles) * kTileKeys;
  Workspace w{};
  const auto take = [&](std::size_t bytes) {
    const std::size_t at = w.bytes;
    w.bytes += (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
    return at;
  };
  w.progress_bytes = progress_bytes(p.kv_count);
  w.progress = take(w.progress_bytes);
  w.q = take(p.q_codes ? q_count * q_rows * dim : 0);
  w.k = take(kv_count * keys * dim);
  w.v = take(kv_count * keys * dim);
  w.q_scale = take(p.q_codes ? q_count * q_rows * sizeof(float) : 0);
  w.k_scale = take(kv_count * p.k_tiles * 4 * sizeof(float));
  w.v_scale = take(kv_count * dim * sizeof(float));
  w.v_mean = take(kv_count * dim * sizeof(float));
  w.k_mean = take(kv_count * dim * sizeof(float));
  w.k_sums = take(options.smooth_k ? kv_count * p.chunks * dim * sizeof(double) : 0);
  w.v_partial = take(kv_count * p.chunks * 2 * dim * sizeof(double));
  w.q_mean = take(options.smooth_q ? q_count * p.q_groups * mean_group_bytes(static_cast<int>(dim)) : 0);
  w.q_block_mean = take(options.smooth_q ? q_count * p.q_blocks * dim * sizeof(float) : 0);
  w.delta_s = take(options.smooth_q ? q_count * p.q_blocks * keys * sizeof(float) : 0);
  w.lse_shift = take(with_lse && options.smooth_k ? q_count * p.q_len * sizeof(float) : 0);
  return w;
}

void prepare(const DeviceProblem& problem, const PrepareOptions& options, const Workspace& at, void* workspace,
             bool with_lse, cudaStream_t stream) {
  if (align_workspace(workspace) != workspace) throw std::invalid_argument("prepare: the workspace is not aligned");
  CUtensorMap v_rows{};
  const auto p = prepare_params(problem, options, at, workspace, &v_rows);
  SAGE2_CUDA_CHECK(cudaMemsetAsync(p.base + at.progress, 0, at.progress_bytes, stream));
  with_element_type(p.dtype, [&]<class T>(const T*) {
    if constexpr (std::is_same_v<T, float>) {
      throw std::invalid_argument("prepare: FP16 or BF16 tensors are expected");
    } else {
      const auto go = [&]<int kDim>() {
        options.smooth_q ? launch<kDim, T, true>(p, stream) : launch<kDim, T, false>(p, stream);
      };
      switch (padded_head_dim(p.head_dim)) {
        case 64:
          go.template operator()<64>();
          break;
        case 128:
          go.template operator()<128>();
          break;
        default:
          go.template operator()<256>();
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
  AttentionParams a{};
  const auto p = prepare_params(problem, options, at, workspace, &a.values.rows);
  std::uint8_t* const base = p.base;
  const auto floats = [&](std::size_t offset) { return reinterpret_cast<const float*>(base + offset); };
  if (p.q_codes) {
    a.q = base + at.q;
    a.q_scale = floats(at.q_scale);
  } else {
    a.queries = {.captured = problem.q,
                 .mean = options.smooth_q ? floats(at.q_block_mean) : nullptr,
                 .gran = options.gran,
                 .top = p.top};
  }
  a.k = base + at.k;
  a.v = base + at.v;
  a.k_scale = floats(at.k_scale);
  a.v_scale = floats(at.v_scale);
  a.v_mean = options.smooth_v ? floats(at.v_mean) : nullptr;
  a.delta_s = options.smooth_q ? floats(at.delta_s) : nullptr;
  a.lse_shift = with_lse && options.smooth_k ? floats(at.lse_shift) : nullptr;
  a.next_tile = reinterpret_cast<int*>(base + at.progress + next_tile_offset(p.kv_count));
  set_shape(a, problem);
  if (p.v_heads < p.kv_count) {
    a.values.codes = base + at.v;
    a.values.groups_ahead = groups_ahead(p.is_causal != 0);
    a.heads_per_group = p.group_heads;
  }
  return a;
}

}  // namespace sage2::cuda::sm90
