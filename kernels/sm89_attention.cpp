#include "kernels/sm89_attention.hpp"

#include "kernels/mma_launch.hpp"

namespace sage2::cuda {

bool sm89_supports([[maybe_unused]] const Variant& variant, [[maybe_unused]] std::int64_t head_dim) {
#ifdef SAGE2_HAS_SM89
  return mma::supports(variant, head_dim, Format::e4m3);
#else
  return false;  // compiled by a CUDA without the instructions
#endif
}

void sm89_attention(const DeviceProblem& problem, const Variant& variant, const DeviceOperands& operands, float* o,
                    LoopCounts* counts, cudaStream_t stream) {
#ifdef SAGE2_HAS_SM89
  const auto instances = problem.v.channels <= 64 ? mma::e4m3_instances_d64() : mma::e4m3_instances_d128();
#else
  const std::span<const mma::Instance> instances;
#endif
  mma::attend(instances, problem, variant, operands, o, counts, stream);
}

}  // namespace sage2::cuda
