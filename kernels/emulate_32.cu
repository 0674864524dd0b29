#include "kernels/cuda_check.hpp"
#include "kernels/emulate_block.cuh"

namespace sage2::cuda {

void launch_loop_32(const LoopParams& params, unsigned blocks, cudaStream_t stream) {
  launch_loop<32>(params, blocks, stream);
}

}  // namespace sage2::cuda
