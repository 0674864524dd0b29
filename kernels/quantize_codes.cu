#include <algorithm>

#include "kernels/cuda_check.hpp"
#include "kernels/quantize_steps.hpp"
#include "kernels/row_tiles.cuh"
#include "reference/formats.hpp"
#include "reference/scale_rules.hpp"

// Scales and codes. Maxima of magnitudes are taken as integers: for numbers that are not negative, the order of FP32
// is that of its bits.
namespace sage2::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr std::int64_t kRows = 32;         // of a block
constexpr std::int64_t kColumnRows = 128;  // of a block that walks down columns
constexpr unsigned kAll = 0xFFFFFFFFU;

__global__ void column_amax_kernel(Work x, std::int64_t tile_rows, std::int64_t size, std::uint32_t* amax) {
  const auto tile = row_tile(x.tokens, size);
  const std::int64_t tiles = (x.tokens + tile_rows - 1) / tile_rows;
  for (int c = static_cast<int>(threadIdx.x); c < x.cols; c += kThreads) {
    const float* const column = x.data + tile.head * x.padded * x.stride + c;
    float largest = 0;
#pragma unroll 8
    for (std::int64_t i = tile.first; i < tile.last; ++i) largest = fmaxf(largest, fabsf(column[i * x.stride]));
    atomicMax(amax + (tile.head * tiles + tile.first / tile_rows) * x.cols + c, __float_as_uint(largest));
  }
}

__global__ void group_amax_kernel(Work x, QkRounding how, std::uint32_t* amax) {
  const auto tile = row_tile(x.tokens, kRows);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (std::int64_t i = tile.first + threadIdx.x / 32; i < tile.last; i += kWarps) {
    const float* const row = x.data + (tile.head * x.padded + i) * x.stride;
    float largest = 0;
    for (int c = lane; c < x.cols; c += 32) largest = fmaxf(largest, fabsf(row[c]));
    const std::uint32_t bits = __reduce_max_sync(kAll, __float_as_uint(largest));
    const auto group = scale_group(static_cast<std::size_t>(i), how.gran, how.geometry, how.is_q);
    if (lane == 0) atomicMax(amax + tile.head * how.groups + static_cast<std::int64_t>(group), bits);
  }
}

/// x / scale as a code; counts it where it is beyond the format.
__device__ float encode(float x, float scale, Format format, bool triton, unsigned& beyond) {
  const float y = x / scale;
  const float limit = saturation_limit(format);
  if (is_fp8(format)) {
    beyond += fabsf(y) > limit ? 1U : 0U;
    return format == Format::e4m3 ? round_e4m3(y) : round_e5m2(y);
  }
  const float code = triton ? round_half_away(y) : round_half_even(y);
  const float top = format_top(format);
  beyond += fabsf(code) > limit ? 1U : 0U;
  return code > top ? top : (code < -top ? -top : code);
}

__device__ void add_count(unsigned count, unsigned long long* total) {
  count = __reduce_add_sync(kAll, count);
  if (threadIdx.x % 32 == 0 && count > 0) atomicAdd(total, static_cast<unsigned long long>(count));
}

__global__ void encode_rows_kernel(Work x, QkRounding how, const std::uint32_t* amax, float* scales,
                                   unsigned long long* saturated) {
  const auto tile = row_tile(x.padded, kRows);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool scaled = is_scaled(how.format);
  const bool triton = follows_triton(how.gran);
  unsigned beyond = 0;
  for (std::int64_t i = tile.first + threadIdx.x / 32; i < tile.last; i += kWarps) {
    float scale = i < x.tokens ? 1.0F : 0.0F;
    if (i < x.tokens) {
      float* const row = x.data + (tile.head * x.padded + i) * x.stride;
      if (scaled) {
        const auto group = scale_group(static_cast<std::size_t>(i), how.gran, how.geometry, how.is_q);
        const float largest = __uint_as_float(amax[tile.head * how.groups + static_cast<std::int64_t>(group)]);
        scale = qk_scale(largest, how.format, triton);
        for (int c = lane; c < x.cols; c += 32) row[c] = encode(row[c], scale, how.format, triton, beyond);
      } else {
        for (int c = lane; c < x.cols; c += 32) row[c] = round_to(how.format, row[c]);
      }
    }
    if (lane == 0) scales[tile.head * x.padded + i] = scale;
  }
  add_count(beyond, saturated + tile.head);
}

__global__ void v_scale_kernel(const std::uint32_t* amax, std::int32_t cols, bool shared, float range, float* scale) {
  __shared__ std::uint32_t largest;
  const std::int64_t row = blockIdx.x;
  if (threadIdx.x == 0) largest = 0;
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < cols; c += kThreads) atomicMax(&largest, amax[row * cols + c]);
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < cols; c += kThreads) {
    scale[row * cols + c] = v_scale(__uint_as_float(shared ? largest : amax[row * cols + c]), range);
  }
}

__global__ void encode_columns_kernel(Work x, Format format, std::int64_t tile_rows, const float* scale,
                                      unsigned long long* saturated) {
  const auto tile = row_tile(x.tokens, kRows);
  const std::int64_t tiles = (x.tokens + tile_rows - 1) / tile_rows;
  const int size = static_cast<int>(tile.last - tile.first) * x.cols;
  unsigned beyond = 0;
  for (int e = static_cast<int>(threadIdx.x); e < size; e += kThreads) {
    const std::int64_t i = tile.first + e / x.cols;
    const int c = e % x.cols;
    float& value = x.data[(tile.head * x.padded + i) * x.stride + c];
    value = encode(value, scale[(tile.head * tiles + i / tile_rows) * x.cols + c], format, false, beyond);
  }
  add_count(beyond, saturated + tile.head);
}

__global__ void round_columns_kernel(Work x, Format format, float* scale) {
  const auto tile = row_tile(x.tokens, kRows);
  const int size = static_cast<int>(tile.last - tile.first) * x.cols;
  for (int e = static_cast<int>(threadIdx.x); e < size; e += kThreads) {
    float& value = x.data[(tile.head * x.padded + tile.first + e / x.cols) * x.stride + e % x.cols];
    value = round_to(format, value);
  }
  if (tile.first > 0) return;
  for (int c = static_cast<int>(threadIdx.x); c < x.cols; c += kThreads) scale[tile.head * x.cols + c] = 1.0F;
}

__global__ void add_counts_kernel(const unsigned long long* of_q, const unsigned long long* of_kv, std::int64_t q_heads,
                                  std::int64_t ratio, std::uint64_t* out) {
  const std::int64_t head = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (head < q_heads) out[head] = of_q[head] + of_kv[head / ratio];
}

}  // namespace

void column_amax(const Work& x, std::int64_t tile, std::uint32_t* amax, cudaStream_t stream) {
  // A block's rows lie within one tile, whose size is either that of all tokens or a small one.
  const std::int64_t size = tile >= x.tokens ? kColumnRows : tile;
  column_amax_kernel<<<row_tiles(x.heads, x.tokens, size), kThreads, 0, stream>>>(x, tile, size, amax);
  SAGE2_CUDA_CHECK_LAUNCH(column_amax_kernel);
}

void group_amax(const Work& x, const QkRounding& how, std::uint32_t* amax, cudaStream_t stream) {
  group_amax_kernel<<<row_tiles(x.heads, x.tokens, kRows), kThreads, 0, stream>>>(x, how, amax);
  SAGE2_CUDA_CHECK_LAUNCH(group_amax_kernel);
}

void encode_rows(const Work& x, const QkRounding& how, const std::uint32_t* amax, float* scale,
                 unsigned long long* saturated, cudaStream_t stream) {
  encode_rows_kernel<<<row_tiles(x.heads, x.padded, kRows), kThreads, 0, stream>>>(x, how, amax, scale, saturated);
  SAGE2_CUDA_CHECK_LAUNCH(encode_rows_kernel);
}

void v_scales(const std::uint32_t* amax, std::int64_t heads, std::int64_t rows, std::int32_t cols, bool shared,
              float range, float* scale, cudaStream_t stream) {
  v_scale_kernel<<<static_cast<unsigned>(heads * rows), kThreads, 0, stream>>>(amax, cols, shared, range, scale);
  SAGE2_CUDA_CHECK_LAUNCH(v_scale_kernel);
}

void encode_columns(const Work& x, Format format, std::int64_t tile, const float* scale, unsigned long long* saturated,
                    cudaStream_t stream) {
  encode_columns_kernel<<<row_tiles(x.heads, x.tokens, kRows), kThreads, 0, stream>>>(x, format, tile, scale,
                                                                                      saturated);
  SAGE2_CUDA_CHECK_LAUNCH(encode_columns_kernel);
}

void round_columns(const Work& x, Format format, float* scale, cudaStream_t stream) {
  round_columns_kernel<<<row_tiles(x.heads, x.tokens, kRows), kThreads, 0, stream>>>(x, format, scale);
  SAGE2_CUDA_CHECK_LAUNCH(round_columns_kernel);
}

void add_counts(const unsigned long long* of_q, const unsigned long long* of_kv, std::int64_t q_heads,
                std::int64_t ratio, std::uint64_t* out, cudaStream_t stream) {
  add_counts_kernel<<<static_cast<unsigned>((q_heads + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
      of_q, of_kv, q_heads, ratio, out);
  SAGE2_CUDA_CHECK_LAUNCH(add_counts_kernel);
}

}  // namespace sage2::cuda
