#include <array>

#include "kernels/accumulator_probe_parts.hpp"
#include "kernels/cuda_check.hpp"

namespace sage2::cuda::probe {

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

namespace wgmma {

#define SAGE2_D8(d, i)                                                                                  \
  "+r"(d[i]), "+r"(d[(i) + 1]), "+r"(d[(i) + 2]), "+r"(d[(i) + 3]), "+r"(d[(i) + 4]), "+r"(d[(i) + 5]), \
      "+r"(d[(i) + 6]), "+r"(d[(i) + 7])

/// wgmma with both operands in shared memory, or with A in registers. `tail`: scales of A and B, and for 16-bit formats
/// that neither is transposed.
#define SAGE2_PROBE_WGMMA(Name, instruction, tail, tail_rs)                                                       \
  struct Name {                                                                                                   \
    static constexpr int kRegisters = 32;                                                                         \
    __device__ static void run(std::uint32_t (&d)[32], std::uint64_t a, std::uint64_t b) {                        \
      asm volatile("wgmma.mma_async.sync.aligned." instruction                                                    \
                   " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24," \
                   "%25,%26,%27,%28,%29,%30,%31}, %32, %33, 1" tail ";"                                           \
                   : SAGE2_D8(d, 0), SAGE2_D8(d, 8), SAGE2_D8(d, 16), SAGE2_D8(d, 24)                             \
                   : "l"(a), "l"(b));                                                                             \
    }                                                                                                             \
    __device__ static void run(std::uint32_t (&d)[32], const std::uint32_t (&a)[4], std::uint64_t b) {            \
      asm volatile("wgmma.mma_async.sync.aligned." instruction                                                    \
                   " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24," \
                   "%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, 1" tail_rs ";"                          \
                   : SAGE2_D8(d, 0), SAGE2_D8(d, 8), SAGE2_D8(d, 16), SAGE2_D8(d, 24)                             \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                         \
    }                                                                                                             \
  }
#define SAGE2_PROBE_WGMMA_HALF(Name, instruction, tail)                                             \
  struct Name {                                                                                     \
    static constexpr int kRegisters = 16;                                                           \
    __device__ static void run(std::uint32_t (&d)[16], std::uint64_t a, std::uint64_t b) {          \
      asm volatile("wgmma.mma_async.sync.aligned." instruction                                      \
                   " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, %16, %17, 1" tail ";" \
                   : SAGE2_D8(d, 0), SAGE2_D8(d, 8)                                                 \
                   : "l"(a), "l"(b));                                                               \
    }                                                                                               \
  }

SAGE2_PROBE_WGMMA(E4m3, "m64n64k32.f32.e4m3.e4m3", ", 1, 1", ", 1, 1");
SAGE2_PROBE_WGMMA(E5m2, "m64n64k32.f32.e5m2.e5m2", ", 1, 1", ", 1, 1");
SAGE2_PROBE_WGMMA(E4m3E5m2, "m64n64k32.f32.e4m3.e5m2", ", 1, 1", ", 1, 1");
SAGE2_PROBE_WGMMA(E5m2E4m3, "m64n64k32.f32.e5m2.e4m3", ", 1, 1", ", 1, 1");
SAGE2_PROBE_WGMMA(Fp16, "m64n64k16.f32.f16.f16", ", 1, 1, 0, 0", ", 1, 1, 0");
SAGE2_PROBE_WGMMA(Bf16, "m64n64k16.f32.bf16.bf16", ", 1, 1, 0, 0", ", 1, 1, 0");
SAGE2_PROBE_WGMMA_HALF(E4m3Half, "m64n64k32.f16.e4m3.e4m3", ", 1, 1");
SAGE2_PROBE_WGMMA_HALF(E5m2Half, "m64n64k32.f16.e5m2.e5m2", ", 1, 1");
SAGE2_PROBE_WGMMA_HALF(Fp16Half, "m64n64k16.f16.f16.f16", ", 1, 1, 0, 0");
#undef SAGE2_D8

}  // namespace wgmma

namespace {

/// Shared-memory descriptor, no swizzle: 128 bytes from one block of 8 rows x 16 bytes to the next along k, 256 along
/// the rows (PTX ISA, "Matrix Descriptor Format").
__device__ std::uint64_t descriptor(const void* shared) {
  const auto address = static_cast<std::uint64_t>(__cvta_generic_to_shared(shared));
  return ((address & 0x3FFFFU) >> 4U) | (std::uint64_t{128 >> 4U} << 16U) | (std::uint64_t{256 >> 4U} << 32U);
}

template <class Wgmma, bool kFromRegisters>
__global__ void __launch_bounds__(kThreads) multiply(const Tile* tiles, const Sums* c, Sums* d) {
  __shared__ alignas(128) Tile tile;
  const auto tid = static_cast<int>(threadIdx.x);
  const auto* const words = reinterpret_cast<const std::uint32_t*>(&tiles[blockIdx.x]);
  auto* const shared = reinterpret_cast<std::uint32_t*>(&tile);
  for (int i = tid; i < static_cast<int>(sizeof(Tile) / 4); i += kThreads) shared[i] = words[i];
  const int g = tid % 32 / 4;
  const int t = tid % 4;
  const int row = tid / 32 * 16 + g;
  constexpr bool kHalf = Wgmma::kRegisters == 16;
  const auto* const from = c[blockIdx.x].c;
  auto* const to = d[blockIdx.x].c;
  std::uint32_t acc[Wgmma::kRegisters];
  // Register pairs go over the columns 2t, 2t + 1 of every eight, for rows g and g + 8.
  const auto at = [&](int pair) { return (row + pair % 2 * 8) * kCols + pair / 2 * 8 + 2 * t; };
#pragma unroll
  for (int pair = 0; pair < 16; ++pair) {
    if constexpr (kHalf) {
      acc[pair] = from[at(pair)] | from[at(pair) + 1] << 16U;
    } else {
      acc[2 * pair] = from[at(pair)];
      acc[2 * pair + 1] = from[at(pair) + 1];
    }
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  if constexpr (kFromRegisters) {
    const auto word = [&](int r, int byte) {
      return *reinterpret_cast<const std::uint32_t*>(tile.a + byte_at(r, byte));
    };
    const std::uint32_t a[4] = {word(row, 4 * t), word(row + 8, 4 * t), word(row, 16 + 4 * t),
                                word(row + 8, 16 + 4 * t)};
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    Wgmma::run(acc, a, descriptor(tile.b));
  } else {
    Wgmma::run(acc, descriptor(tile.a), descriptor(tile.b));
  }
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int pair = 0; pair < 16; ++pair) {
    if constexpr (kHalf) {
      to[at(pair)] = acc[pair] & 0xFFFFU;
      to[at(pair) + 1] = acc[pair] >> 16U;
    } else {
      to[at(pair)] = acc[2 * pair];
      to[at(pair) + 1] = acc[2 * pair + 1];
    }
  }
}

template <class Wgmma, bool kFromRegisters = false>
void launch(const Tile* tiles, const Sums* c, Sums* d, int count, cudaStream_t stream) {
  multiply<Wgmma, kFromRegisters><<<count, kThreads, 0, stream>>>(tiles, c, d);
  SAGE2_CUDA_CHECK_LAUNCH(multiply);
}

}  // namespace

#endif

std::span<const Instruction> wgmma_instructions() {
  static const std::array<Instruction, 12> all{
      {{"wgmma m64n64k32 e4m3 x e4m3, FP32 accumulator", kE4m3Word, kE4m3Word, false, launch<wgmma::E4m3>},
       {"wgmma m64n64k32 e4m3 x e4m3, FP32 accumulator, A in registers", kE4m3Word, kE4m3Word, false,
        launch<wgmma::E4m3, true>},
       {"wgmma m64n64k32 e5m2 x e5m2, FP32 accumulator", kE5m2Word, kE5m2Word, false, launch<wgmma::E5m2>},
       {"wgmma m64n64k32 e4m3 x e5m2, FP32 accumulator", kE4m3Word, kE5m2Word, false, launch<wgmma::E4m3E5m2>},
       {"wgmma m64n64k32 e5m2 x e4m3, FP32 accumulator", kE5m2Word, kE4m3Word, false, launch<wgmma::E5m2E4m3>},
       {"wgmma m64n64k16 fp16 x fp16, FP32 accumulator", kFp16Word, kFp16Word, false, launch<wgmma::Fp16>},
       {"wgmma m64n64k16 fp16 x fp16, FP32 accumulator, A in registers", kFp16Word, kFp16Word, false,
        launch<wgmma::Fp16, true>},
       {"wgmma m64n64k16 bf16 x bf16, FP32 accumulator", kBf16Word, kBf16Word, false, launch<wgmma::Bf16>},
       {"wgmma m64n64k16 bf16 x bf16, FP32 accumulator, A in registers", kBf16Word, kBf16Word, false,
        launch<wgmma::Bf16, true>},
       {"wgmma m64n64k32 e4m3 x e4m3, FP16 accumulator", kE4m3Word, kE4m3Word, true, launch<wgmma::E4m3Half>},
       {"wgmma m64n64k32 e5m2 x e5m2, FP16 accumulator", kE5m2Word, kE5m2Word, true, launch<wgmma::E5m2Half>},
       {"wgmma m64n64k16 fp16 x fp16, FP16 accumulator", kFp16Word, kFp16Word, true, launch<wgmma::Fp16Half>}}};
  return all;
}

}  // namespace sage2::cuda::probe
