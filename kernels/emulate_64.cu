#include "kernels/cuda_check.hpp"
#include "kernels/emulate_block.cuh"

namespace sage2::cuda {

void launch_loop_64(const LoopParams& params, unsigned blocks, cudaStream_t stream) {
  launch_loop<64>(params, blocks, stream);
}

}  // namespace sage2::cuda
