#include "kernels/mma_attention.cuh"

namespace sage2::cuda::mma {

std::span<const Instance> e4m3_instances_d128() {
  return instances<128, Format::e4m3>();
}

}  // namespace sage2::cuda::mma
