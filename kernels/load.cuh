#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/device_problem.hpp"

/// Elements of captured tensors as FP32, which holds each of their formats exactly.
namespace sage2::cuda {

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(__half x) {
  return __half2float(x);
}
__device__ inline float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

/// Calls `f` with a null pointer of the tensor's element type: with_element_type(t, [&](auto* type) {...}).
template <class F>
auto with_element_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::float16:
      return f(static_cast<const __half*>(nullptr));
    case DType::bfloat16:
      return f(static_cast<const __nv_bfloat16*>(nullptr));
    default:
      return f(static_cast<const float*>(nullptr));
  }
}

/// The first element of a head; heads are counted over batch and heads.
template <class T>
__device__ __forceinline__ const T* head_of(const TensorView& t, std::int64_t head) {
  const auto heads = static_cast<unsigned>(t.heads);
  const unsigned batch = static_cast<unsigned>(head) / heads;
  const unsigned inside = static_cast<unsigned>(head) - batch * heads;
  return static_cast<const T*>(t.data) + batch * t.stride_batch + inside * t.stride_head;
}

/// First element of a token of a head, counted over batch and heads.
template <class T>
__device__ inline const T* token(const TensorView& t, std::int64_t head, std::int64_t i) {
  return static_cast<const T*>(t.data) + head / t.heads * t.stride_batch + head % t.heads * t.stride_head +
         i * t.stride_token;
}

}  // namespace sage2::cuda
