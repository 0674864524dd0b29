#include "kernels/cuda_check.hpp"
#include "kernels/device_buffer.hpp"
#include "kernels/ex2_probe.hpp"
#include "reference/exp2.hpp"

namespace sage2::cuda {
namespace {

struct Counts {
  unsigned long long compared, correctly_rounded, as_shared, shared_rounded, aligned, unlike_shifted;
  unsigned long long worst_ulp, worst_relative;  ///< bits of the largest errors as FP64, which order like integers
};

__device__ float ex2(float x) {
  float y = 0;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__global__ void compare(std::uint32_t first, std::uint32_t count, Counts* out) {
  Counts n{};
  double worst = 0;
  double worst_relative = 0;
  for (std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    const float x = std::bit_cast<float>(first + i);
    const float y = ex2(x);
    const double truth = exp2(static_cast<double>(x));
    if (!(truth >= 0x1p-126)) continue;
    const auto nearest = static_cast<float>(truth);
    const float shared = exp2_shared(x);
    const double error = fabs(static_cast<double>(y) - truth) * exp2(static_cast<double>(23 - ilogb(truth)));
    const double relative = fabs(static_cast<double>(y) / truth - 1);
    worst = error <= worst ? worst : error;  // NaN becomes the worst
    worst_relative = relative <= worst_relative ? worst_relative : relative;
    n.compared += 1;
    n.correctly_rounded += y == nearest ? 1 : 0;
    n.as_shared += y == shared ? 1 : 0;
    n.shared_rounded += shared == nearest ? 1 : 0;
    const float magnitude = fabsf(x);
    const float whole = floorf(magnitude);
    const float fraction = magnitude - whole;
    if ((fraction + 1.0F) - 1.0F == fraction) {
      const float like = copysignf(1.0F + fraction, x);
      const int up = static_cast<int>(whole) - 1;
      n.aligned += 1;
      n.unlike_shifted += y == ldexpf(ex2(like), x < 0.0F ? -up : up) ? 0 : 1;
    }
  }
  atomicAdd(&out->compared, n.compared);
  atomicAdd(&out->correctly_rounded, n.correctly_rounded);
  atomicAdd(&out->as_shared, n.as_shared);
  atomicAdd(&out->shared_rounded, n.shared_rounded);
  atomicAdd(&out->aligned, n.aligned);
  atomicAdd(&out->unlike_shifted, n.unlike_shifted);
  atomicMax(&out->worst_ulp, std::bit_cast<unsigned long long>(worst));
  atomicMax(&out->worst_relative, std::bit_cast<unsigned long long>(worst_relative));
}

}  // namespace

std::vector<Ex2Probe> probe_ex2() {
  struct Range {
    const char* name;
    float from, to;  ///< magnitudes ascending
  };
  const Range ranges[] = {{"[1, 2)", 1.0F, 2.0F},
                          {"[2^-26, 1)", 0x1p-26F, 1.0F},
                          {"(-1, -2^-26]", -0x1p-26F, -1.0F},
                          {"(-126, -1]", -1.0F, -126.0F}};
  const Stream stream;
  std::vector<Ex2Probe> out;
  for (const auto& r : ranges) {
    DeviceBuffer<Counts> counts(1, stream.get());
    counts.zero();
    const auto first = std::bit_cast<std::uint32_t>(r.from);
    compare<<<4096, 128, 0, stream.get()>>>(first, std::bit_cast<std::uint32_t>(r.to) - first, counts.data());
    SAGE2_CUDA_CHECK_LAUNCH(compare);
    const Counts n = counts.download().front();
    out.push_back({r.name, n.compared, std::bit_cast<double>(n.worst_ulp), std::bit_cast<double>(n.worst_relative),
                   n.correctly_rounded, n.as_shared, n.shared_rounded, n.aligned, n.unlike_shifted});
  }
  return out;
}

}  // namespace sage2::cuda
