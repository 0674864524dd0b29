#include <stdexcept>

#include "kernels/device_buffer.hpp"
#include "kernels/native.hpp"
#include "kernels/sm80_attention.hpp"
#include "kernels/sm89_attention.hpp"
#include "kernels/sm90_native.hpp"
#include "reference/formats.hpp"

namespace sage2::cuda {
namespace {

/// The kernel that computes a variant on a chip.
enum class Kernel { none, sm80, sm89, sm90 };

Kernel kernel_on(const Variant& v, std::int64_t head_dim, int major, int minor) {
  if (major == 9) {
    if (sm90::supports(v, head_dim)) return Kernel::sm90;
    // Hopper runs Ampere's instructions; FP16 products are summed as its own tensor cores do.
    return v.arch == Arch::hopper && sm80_supports(v, head_dim) ? Kernel::sm80 : Kernel::none;
  }
  if (major != 8) return Kernel::none;
  const bool ada = minor == 9;
  if (ada && v.arch == Arch::ada && sm89_supports(v, head_dim)) return Kernel::sm89;
  // Ampere and Ada sum FP16 products alike.
  const bool own = ada ? v.arch == Arch::ada || v.arch == Arch::ampere : v.arch == Arch::ampere;
  return own && sm80_supports(v, head_dim) ? Kernel::sm80 : Kernel::none;
}

Kernel kernel_here(const Variant& v, std::int64_t head_dim) {
  int device = 0;
  int major = 0;
  int minor = 0;
  SAGE2_CUDA_CHECK(cudaGetDevice(&device));
  SAGE2_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  SAGE2_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  return kernel_on(v, head_dim, major, minor);
}

constexpr int kThreads = 256;

__global__ void round_output(float* o, std::int64_t count, OutFormat format) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) o[i] = format == OutFormat::fp16 ? round_fp16(o[i]) : round_bf16(o[i]);
}

__global__ void add_saturated(const std::uint64_t* from, std::int64_t heads, LoopCounts* to) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < heads) to[i].saturated += from[i];
}

unsigned blocks(std::int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

}  // namespace

Route route_on(const Variant& variant, std::int64_t head_dim, int major, int minor) {
  if (kernel_on(variant, head_dim, major, minor) == Kernel::none) return Route::cuda_cores;
  return major == 9 && variant.arch != Arch::hopper ? Route::borrowed : Route::native;
}

void attend_on_tensor_cores(const DeviceProblem& problem, const Variant& variant, float* o, LoopCounts* counts,
                            cudaStream_t stream) {
  const Kernel kernel = kernel_here(variant, problem.q.channels);
  if (kernel == Kernel::none) throw std::logic_error("attend_on_tensor_cores: this chip has no kernel for the variant");
  const DeviceOperands operands = quantize(problem, variant, stream);
  switch (kernel) {
    case Kernel::sm80:
      sm80_attention(problem, variant, operands, o, counts, stream);
      break;
    case Kernel::sm89:
      sm89_attention(problem, variant, operands, o, counts, stream);
      break;
    default: {
      sm90::attend(problem, variant, operands, o, counts, stream);
      const std::int64_t count = problem.q_count() * problem.q.tokens * problem.q.channels;
      if (variant.o != OutFormat::exact) {
        round_output<<<blocks(count), kThreads, 0, stream>>>(o, count, variant.o);
        SAGE2_CUDA_CHECK_LAUNCH(round_output);
      }
    }
  }
  if (counts != nullptr) {
    add_saturated<<<blocks(problem.q_count()), kThreads, 0, stream>>>(operands.saturated.data(), problem.q_count(),
                                                                      counts);
    SAGE2_CUDA_CHECK_LAUNCH(add_saturated);
  }
}

}  // namespace sage2::cuda
