#include "kernels/mma_attention.cuh"

namespace sage2::cuda::mma {

std::span<const Instance> e4m3_instances_d64() {
  return instances<64, Format::e4m3>();
}

}  // namespace sage2::cuda::mma
