#include <array>

#include "kernels/accumulator_probe_parts.hpp"
#include "kernels/cuda_check.hpp"

namespace sage2::cuda::probe {
namespace {

/// Fragments of m16n8 with rows of 32 bytes: registers in the order of the PTX ISA, "Matrix Fragments for mma.m16n8k16"
/// and "mma.m16n8k32".
#define SAGE2_PROBE_MMA(Name, instruction)                                                                        \
  struct Name {                                                                                                   \
    static constexpr bool kHalf = false;                                                                          \
    __device__ static void run(std::uint32_t (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) { \
      asm volatile(instruction " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                           \
                   : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                               \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                           \
    }                                                                                                             \
  }
#define SAGE2_PROBE_MMA_HALF(Name, instruction)                                                                   \
  struct Name {                                                                                                   \
    static constexpr bool kHalf = true;                                                                           \
    __device__ static void run(std::uint32_t (&d)[2], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) { \
      asm volatile(instruction " {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%0,%1};"                                       \
                   : "+r"(d[0]), "+r"(d[1])                                                                       \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                           \
    }                                                                                                             \
  }

SAGE2_PROBE_MMA(Fp16, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32");
SAGE2_PROBE_MMA(Bf16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");
SAGE2_PROBE_MMA_HALF(Fp16Half, "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16");
#if CUDART_VERSION >= 12080
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 890
SAGE2_PROBE_MMA(E4m3, "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32");
SAGE2_PROBE_MMA(E5m2, "mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e5m2.f32");
SAGE2_PROBE_MMA(E4m3E5m2, "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32");
SAGE2_PROBE_MMA_HALF(E4m3Half, "mma.sync.aligned.m16n8k32.row.col.f16.e4m3.e4m3.f16");
SAGE2_PROBE_MMA_HALF(E5m2Half, "mma.sync.aligned.m16n8k32.row.col.f16.e5m2.e5m2.f16");
#else  // machine code for chips without FP8 carries empty kernels; they are not launched
SAGE2_PROBE_MMA(E4m3, "// ");
SAGE2_PROBE_MMA(E5m2, "// ");
SAGE2_PROBE_MMA(E4m3E5m2, "// ");
SAGE2_PROBE_MMA_HALF(E4m3Half, "// ");
SAGE2_PROBE_MMA_HALF(E5m2Half, "// ");
#endif
#endif

__device__ std::uint32_t register_at(const std::uint8_t* matrix, int row, int byte) {
  return *reinterpret_cast<const std::uint32_t*>(matrix + byte_at(row, byte));
}

/// Four warps, 16 rows each, over eight column tiles.
template <class Mma>
__global__ void __launch_bounds__(kThreads) multiply(const Tile* tiles, const Sums* c, Sums* d) {
  const auto& tile = tiles[blockIdx.x];
  const auto& from = c[blockIdx.x];
  auto& to = d[blockIdx.x];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int row = static_cast<int>(threadIdx.x) / 32 * 16 + g;
  const std::uint32_t a[4] = {register_at(tile.a, row, 4 * t), register_at(tile.a, row + 8, 4 * t),
                              register_at(tile.a, row, 16 + 4 * t), register_at(tile.a, row + 8, 16 + 4 * t)};
  for (int n = 0; n < kCols; n += 8) {
    const std::uint32_t b[2] = {register_at(tile.b, n + g, 4 * t), register_at(tile.b, n + g, 16 + 4 * t)};
    const int at[4] = {row * kCols + n + 2 * t, row * kCols + n + 2 * t + 1, (row + 8) * kCols + n + 2 * t,
                       (row + 8) * kCols + n + 2 * t + 1};
    if constexpr (Mma::kHalf) {
      std::uint32_t acc[2] = {from.c[at[0]] | from.c[at[1]] << 16U, from.c[at[2]] | from.c[at[3]] << 16U};
      Mma::run(acc, a, b);
      for (int i = 0; i < 4; ++i) to.c[at[i]] = acc[i / 2] >> (i % 2 * 16) & 0xFFFFU;
    } else {
      std::uint32_t acc[4] = {from.c[at[0]], from.c[at[1]], from.c[at[2]], from.c[at[3]]};
      Mma::run(acc, a, b);
      for (int i = 0; i < 4; ++i) to.c[at[i]] = acc[i];
    }
  }
}

template <class Mma>
void launch(const Tile* tiles, const Sums* c, Sums* d, int count, cudaStream_t stream) {
  multiply<Mma><<<count, kThreads, 0, stream>>>(tiles, c, d);
  SAGE2_CUDA_CHECK_LAUNCH(multiply);
}

}  // namespace

std::span<const Instruction> mma_instructions() {
  static const std::array<Instruction, 3> all{
      {{"mma m16n8k16 fp16 x fp16, FP32 accumulator", kFp16Word, kFp16Word, false, launch<Fp16>},
       {"mma m16n8k16 bf16 x bf16, FP32 accumulator", kBf16Word, kBf16Word, false, launch<Bf16>},
       {"mma m16n8k16 fp16 x fp16, FP16 accumulator", kFp16Word, kFp16Word, true, launch<Fp16Half>}}};
  return all;
}

std::span<const Instruction> fp8_mma_instructions() {
#if CUDART_VERSION < 12080  // FP8 with FP16 accumulators is PTX of CUDA 12.8
  return {};
#else
  static const std::array<Instruction, 5> all{
      {{"mma m16n8k32 e4m3 x e4m3, FP32 accumulator", kE4m3Word, kE4m3Word, false, launch<E4m3>},
       {"mma m16n8k32 e5m2 x e5m2, FP32 accumulator", kE5m2Word, kE5m2Word, false, launch<E5m2>},
       {"mma m16n8k32 e4m3 x e5m2, FP32 accumulator", kE4m3Word, kE5m2Word, false, launch<E4m3E5m2>},
       {"mma m16n8k32 e4m3 x e4m3, FP16 accumulator", kE4m3Word, kE4m3Word, true, launch<E4m3Half>},
       {"mma m16n8k32 e5m2 x e5m2, FP16 accumulator", kE5m2Word, kE5m2Word, true, launch<E5m2Half>}}};
  return all;
#endif
}

}  // namespace sage2::cuda::probe
