#include "kernels/sm90_tensor_map.hpp"

#include <array>

#include "kernels/cuda_check.hpp"

namespace sage2::cuda::sm90 {
namespace {

/// The driver's function, by way of the runtime: nothing is linked against the driver.
auto encoder() {
  static const auto function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
    SAGE2_CUDA_CHECK(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result));
#else
    SAGE2_CUDA_CHECK(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result));
#endif
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);  // NOLINT: what the runtime offers
  }();
  return function;
}

}  // namespace

bool describe(const TensorView& tensor, int rows, CUtensorMap& map) {
  if (reinterpret_cast<std::uintptr_t>(tensor.data) % 16 != 0 || tensor.channels % 8 != 0) return false;  // NOLINT
  const std::array<std::int64_t, 4> sizes{tensor.channels, tensor.tokens, tensor.heads, tensor.batch};
  const std::array<std::int64_t, 3> strides{tensor.stride_token, tensor.stride_head, tensor.stride_batch};
  std::array<cuuint64_t, 4> dims{};
  std::array<cuuint64_t, 3> bytes{};
  dims[0] = static_cast<cuuint64_t>(sizes[0]);
  for (std::size_t i = 0; i < strides.size(); ++i) {
    dims[i + 1] = static_cast<cuuint64_t>(sizes[i + 1]);
    // The stride of a dimension of one is never used.
    const std::int64_t stride = sizes[i + 1] == 1 ? 8 : strides[i];
    if (stride <= 0 || stride % 8 != 0) return false;
    bytes[i] = static_cast<cuuint64_t>(stride) * 2;
  }
  if (encoder() == nullptr) return false;
  const std::array<cuuint32_t, 4> box{kBoxChannels, static_cast<cuuint32_t>(rows), 1, 1};
  const std::array<cuuint32_t, 4> steps{1, 1, 1, 1};
  const auto type = tensor.dtype == DType::float16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  return encoder()(&map, type, 4, const_cast<void*>(tensor.data), dims.data(), bytes.data(), box.data(), steps.data(),
                   CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace sage2::cuda::sm90
