#include "kernels/mma_attention.cuh"

namespace sage2::cuda::mma {

std::span<const Instance> fp16_instances_d128() {
  return instances<128, Format::fp16>();
}

}  // namespace sage2::cuda::mma
