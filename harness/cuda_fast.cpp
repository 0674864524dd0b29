#include "harness/cuda_fast.hpp"

#include "datasets/error.hpp"
#include "kernels/sm90_plan.hpp"

namespace sage2 {
namespace {

std::optional<cuda::sm90::Plan> fast_plan(const Variant& variant) {
  try {
    auto plan = cuda::sm90::plan(variant);
    if (!plan.kernel.accurate) return plan;
  } catch (const UsageError&) {
    // No fused kernel for this variant, which is no error here.
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::vector<float>> attend_fast(const DeviceHeads& heads, const Variant& variant, int major,
                                              cudaStream_t stream) {
  const auto& problem = heads.problem();
  const DType dtype = problem.q.dtype;
  if (major != 9 || dtype == DType::float32 || problem.k.dtype != dtype || problem.v.dtype != dtype) {
    return std::nullopt;
  }
  const auto plan = fast_plan(variant);
  if (!plan) return std::nullopt;
  const auto at = cuda::sm90::plan_workspace(problem, plan->prepare, false);
  cuda::DeviceBuffer<std::byte> memory(at.bytes + cuda::sm90::kWorkspaceAlignment, stream);
  void* const workspace = cuda::sm90::align_workspace(memory.data());
  cuda::DeviceBuffer<float> o(static_cast<std::size_t>(problem.q_count() * problem.q.tokens * problem.q.channels),
                              stream);
  cuda::sm90::prepare(problem, plan->prepare, at, workspace, false, stream);
  auto params = cuda::sm90::attention_params(problem, plan->prepare, at, workspace, false);
  params.o = o.data();
  params.o_type = cuda::sm90::OutType::fp32;
  cuda::sm90::attention(params, plan->kernel, stream);
  return o.download();
}

}  // namespace sage2
