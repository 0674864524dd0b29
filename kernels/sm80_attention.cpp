#include "kernels/sm80_attention.hpp"

#include "kernels/mma_launch.hpp"

namespace sage2::cuda {

bool sm80_supports(const Variant& variant, std::int64_t head_dim) {
  return mma::supports(variant, head_dim, Format::fp16);
}

void sm80_attention(const DeviceProblem& problem, const Variant& variant, const DeviceOperands& operands, float* o,
                    LoopCounts* counts, cudaStream_t stream) {
  const auto instances = problem.v.channels <= 64 ? mma::fp16_instances_d64() : mma::fp16_instances_d128();
  mma::attend(instances, problem, variant, operands, o, counts, stream);
}

}  // namespace sage2::cuda
