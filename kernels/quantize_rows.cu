#include <cmath>

#include "kernels/cuda_check.hpp"
#include "kernels/load.cuh"
#include "kernels/quantize_steps.hpp"
#include "kernels/row_tiles.cuh"
#include "reference/smooth.hpp"

// Steps that touch each element once: copying, subtracting, transforming.
namespace sage2::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kRows = 32;  // of a block
constexpr int kWidest = 256;        // columns of a transformed row

template <class T>
__global__ void load_kernel(TensorView from, Work out) {
  const auto tile = row_tile(out.padded, kRows);
  const int stride = out.stride;
  float* const rows = out.data + (tile.head * out.padded + tile.first) * stride;
  const int size = static_cast<int>(tile.last - tile.first) * stride;
  for (int e = static_cast<int>(threadIdx.x); e < size; e += kThreads) {
    const int i = e / stride;
    const int c = e - i * stride;
    const bool real = tile.first + i < out.tokens && c < out.cols;
    rows[e] = real ? to_float(token<T>(from, tile.head, tile.first + i)[c]) : 0.0F;
  }
}

/// Calls f(row in the head, column, element) for every element of the block's rows.
template <class F>
__device__ void for_each(const Work& x, const F& f) {
  const auto tile = row_tile(x.tokens, kRows);
  const int size = static_cast<int>(tile.last - tile.first) * x.cols;
  for (int e = static_cast<int>(threadIdx.x); e < size; e += kThreads) {
    const int i = e / x.cols;
    const int c = e - i * x.cols;
    f(tile.head, tile.first + i, c, x.data[(tile.head * x.padded + tile.first + i) * x.stride + c]);
  }
}

__global__ void subtract_kernel(Work x, std::int64_t block, const float* mean) {
  const std::int64_t blocks = (x.tokens + block - 1) / block;
  for_each(x, [&](std::int64_t head, std::int64_t i, int c, float& value) {
    value -= mean[(head * blocks + i / block) * x.cols + c];
  });
}

__global__ void lambda_kernel(Work x, const std::uint32_t* amax, std::int64_t ratio, bool divide) {
  for_each(x, [&](std::int64_t head, std::int64_t, int c, float& value) {
    const float largest = __uint_as_float(amax[head / ratio * x.cols + c]);
    const float lambda = largest > 0 ? sqrtf(largest) : 1.0F;
    value = divide ? value / lambda : value * lambda;
  });
}

__global__ void clip_kernel(Work x, const double2* band) {
  for_each(x, [&](std::int64_t head, std::int64_t, int c, float& value) {
    const double2 b = band[head * x.cols + c];
    const double v = value;
    value = static_cast<float>(v < b.x ? b.x : (b.y < v ? b.y : v));
  });
}

__global__ void gather_kernel(Work x, const std::uint32_t* channels, Work out) {
  const auto tile = row_tile(out.padded, kRows);
  const int size = static_cast<int>(tile.last - tile.first) * out.cols;
  for (int e = static_cast<int>(threadIdx.x); e < size; e += kThreads) {
    const std::int64_t i = tile.first + e / out.cols;
    const int c = e % out.cols;
    const auto from = channels[tile.head * out.cols + c];
    out.data[(tile.head * out.padded + i) * out.stride + c] =
        i < x.tokens ? x.data[(tile.head * x.padded + i) * x.stride + from] : 0.0F;
  }
}

/// One warp a row, in shared memory. The butterflies of a stage are independent of each other, so each value is the
/// CPU's, whoever computes it.
__global__ void hadamard_kernel(Work x, int n, float norm) {
  __shared__ float rows[kThreads / 32][kWidest];
  const auto tile = row_tile(x.tokens, kRows);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float* const row = rows[threadIdx.x / 32];
  for (std::int64_t i = tile.first + threadIdx.x / 32; i < tile.last; i += kThreads / 32) {
    float* const data = x.data + (tile.head * x.padded + i) * x.stride;
    for (int c = lane; c < n; c += 32) row[c] = c < x.cols ? data[c] * random_sign(static_cast<std::size_t>(c)) : 0.0F;
    for (int half = 1; half < n; half *= 2) {
      __syncwarp();
      for (int pair = lane; pair < n / 2; pair += 32) {
        const int c = pair / half * (2 * half) + pair % half;
        const float a = row[c];
        const float b = row[c + half];
        row[c] = a + b;
        row[c + half] = a - b;
      }
    }
    __syncwarp();
    for (int c = lane; c < n; c += 32) data[c] = row[c] * norm;
    __syncwarp();
  }
}

}  // namespace

void load_tensor(const TensorView& from, const Work& out, cudaStream_t stream) {
  with_element_type(from.dtype, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
    load_kernel<T><<<row_tiles(out.heads, out.padded, kRows), kThreads, 0, stream>>>(from, out);
  });
  SAGE2_CUDA_CHECK_LAUNCH(load_kernel);
}

void subtract_means(const Work& x, std::int64_t block, const float* mean, cudaStream_t stream) {
  subtract_kernel<<<row_tiles(x.heads, x.tokens, kRows), kThreads, 0, stream>>>(x, block, mean);
  SAGE2_CUDA_CHECK_LAUNCH(subtract_kernel);
}

void hadamard_rows(const Work& x, cudaStream_t stream) {
  int n = 1;
  while (n < x.cols) n *= 2;
  const auto norm = static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
  hadamard_kernel<<<row_tiles(x.heads, x.tokens, kRows), kThreads, 0, stream>>>(x, n, norm);
  SAGE2_CUDA_CHECK_LAUNCH(hadamard_kernel);
}

void scale_by_lambda(const Work& x, const std::uint32_t* amax, std::int64_t ratio, bool divide, cudaStream_t stream) {
  lambda_kernel<<<row_tiles(x.heads, x.tokens, kRows), kThreads, 0, stream>>>(x, amax, ratio, divide);
  SAGE2_CUDA_CHECK_LAUNCH(lambda_kernel);
}

void clip_to_bands(const Work& x, const double2* band, cudaStream_t stream) {
  clip_kernel<<<row_tiles(x.heads, x.tokens, kRows), kThreads, 0, stream>>>(x, band);
  SAGE2_CUDA_CHECK_LAUNCH(clip_kernel);
}

void gather_columns(const Work& x, const std::uint32_t* channels, const Work& out, cudaStream_t stream) {
  gather_kernel<<<row_tiles(out.heads, out.padded, kRows), kThreads, 0, stream>>>(x, channels, out);
  SAGE2_CUDA_CHECK_LAUNCH(gather_kernel);
}

}  // namespace sage2::cuda
