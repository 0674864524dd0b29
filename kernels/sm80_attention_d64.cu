#include "kernels/mma_attention.cuh"

namespace sage2::cuda::mma {

std::span<const Instance> fp16_instances_d64() {
  return instances<64, Format::fp16>();
}

}  // namespace sage2::cuda::mma
