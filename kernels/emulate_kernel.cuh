#pragma once

#include "kernels/cuda_check.hpp"
#include "kernels/emulate_block.cuh"

/// The loop over key tiles, and its launch.
namespace sage2::cuda {

/// Calls f.template operator()<how>() for a product that is known when the kernel runs.
template <class F>
__device__ inline void with_product(Product how, const F& f) {
  switch (how) {
    case Product::integer:
      return f.template operator()<Product::integer>();
    case Product::fp64:
      return f.template operator()<Product::fp64>();
    case Product::light:
      return f.template operator()<Product::light>();
    default:
      return f.template operator()<Product::heavy>();
  }
}

template <int kRows>
__global__ void __launch_bounds__(4 * kRows, kRows == 64 ? 2 : 4)
    loop_kernel(const __grid_constant__ LoopParams params) {
  extern __shared__ __align__(16) unsigned char memory[];
  Block<kRows> block(params, memory);
  const LoopParams& p = params;
  block.load_rows();
  // O starts at zero; what is allocated between the two parts and the end belongs to nothing else.
  for (unsigned at = p.layout.o[0] + 4 * threadIdx.x; at < p.layout.size; at += 4 * Block<kRows>::kThreads) {
    *reinterpret_cast<float*>(memory + at) = 0.0F;
  }
  if (p.layout.q_depth >= p.depth) {
    with_product(p.qk.how, [&]<Product kHow>() { block.template stage_queries<kHow>(0, p.depth); });
  }
  const int limit = block.limit();
  for (std::int64_t first = 0; first < limit; first += p.k_tile) {
    // Operands are padded to whole tiles; keys beyond the end are masked like any other.
    for (int n = static_cast<int>(threadIdx.x); n < p.k_tile; n += Block<kRows>::kThreads) {
      block.k_scale()[n] = p.k_scale[block.kv_head * p.k_tokens + first + n];
    }
    with_product(p.qk.how, [&]<Product kHow>() { block.template scores<kHow>(first); });
    block.softmax(first);
    for (int part = 0; part < p.parts; ++part) {
      with_product(p.part[part].product.how, [&]<Product kHow>() { block.template multiply_v<kHow>(part, first); });
    }
  }
  block.finish();
  block.add_counts();
}

template <int kRows>
void launch_loop(const LoopParams& params, unsigned blocks, cudaStream_t stream) {
  // The most that there is, not what this launch needs: another thread that needs less would set it lower in between.
  int device = 0;
  int most = 0;
  SAGE2_CUDA_CHECK(cudaGetDevice(&device));
  SAGE2_CUDA_CHECK(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  SAGE2_CUDA_CHECK(cudaFuncSetAttribute(loop_kernel<kRows>, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
  loop_kernel<kRows><<<blocks, 4 * kRows, params.layout.size, stream>>>(params);
  SAGE2_CUDA_CHECK_LAUNCH(loop_kernel);
}

}  // namespace sage2::cuda
