#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>

#include "kernels/cuda_check.hpp"
#include "kernels/mma_operands.hpp"
#include "reference/formats.hpp"

namespace sage2::cuda {
namespace {

constexpr int kThreads = 256;

/// Codes [heads, tokens, count] in FP32; 0 beyond.
struct Codes {
  const float* data;
  std::int64_t tokens, count;
  [[nodiscard]] __device__ float at(std::int64_t head, std::int64_t row, std::int64_t col) const {
    return row < tokens && col < count ? data[(head * tokens + row) * count + col] : 0.0F;
  }
};

/// One 32-bit word of codes a thread: [heads, rows, dim] in `bits` bits each.
__global__ void pack_integers(Codes from, std::int64_t words, std::int64_t rows, std::int64_t dim, int bits,
                              std::uint32_t* to) {
  const int codes = 32 / bits;
  const std::uint32_t mask = (1U << bits) - 1U;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < words;
       i += std::int64_t{gridDim.x} * kThreads) {
    const std::int64_t row = i * codes / dim;
    const std::int64_t col = i * codes % dim;
    std::uint32_t word = 0;
    for (int j = 0; j < codes; ++j) {
      const auto code = static_cast<std::int32_t>(from.at(row / rows, row % rows, col + j));
      word |= (static_cast<std::uint32_t>(code) & mask) << (bits * j);
    }
    to[i] = word;
  }
}

__global__ void pack_halves(Codes from, std::int64_t elements, std::int64_t rows, std::int64_t dim, __half* to) {
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < elements;
       i += std::int64_t{gridDim.x} * kThreads) {
    const std::int64_t row = i / dim;
    to[i] = __float2half_rn(from.at(row / rows, row % rows, i % dim));
  }
}

/// Four keys of a channel a thread; neighbouring threads read neighbouring channels.
__global__ void pack_transposed(Codes from, std::int64_t words, std::int64_t rows, std::int64_t dim,
                                std::uint32_t* to) {
  constexpr std::int64_t kWords = kMmaKeyTile / 4;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < words;
       i += std::int64_t{gridDim.x} * kThreads) {
    const std::int64_t channel = i % dim;
    const std::int64_t quad = i / dim % kWords;  // of the tile's keys
    const std::int64_t tile = i / dim / kWords;  // over all heads
    const std::int64_t tiles = rows / kMmaKeyTile;
    const std::int64_t first = tile % tiles * kMmaKeyTile + quad / 4 * 16 + quad % 4 * 2;
    std::uint32_t word = 0;
    for (int j = 0; j < 4; ++j) {
      const float x = from.at(tile / tiles, first + (j < 2 ? j : 6 + j), channel);
      word |= static_cast<std::uint32_t>(__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3)) << (8 * j);
    }
    to[(tile * dim + channel) * kWords + quad] = word;
  }
}

__global__ void round_all(float* o, std::int64_t count, OutFormat format) {
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += std::int64_t{gridDim.x} * kThreads) {
    o[i] = format == OutFormat::fp16 ? round_fp16(o[i]) : round_bf16(o[i]);
  }
}

unsigned int blocks_for(std::int64_t items) {
  return static_cast<unsigned int>(std::clamp<std::int64_t>((items + kThreads - 1) / kThreads, 1, 1 << 16));
}

DeviceBuffer<std::uint8_t> packed_integers(const DeviceQkOperand& from, std::int64_t heads, std::int64_t rows,
                                           std::int64_t dim, int bits, cudaStream_t stream) {
  const std::int64_t bytes = heads * rows * dim * bits / 8;
  DeviceBuffer<std::uint8_t> to(static_cast<std::size_t>(bytes), stream);
  pack_integers<<<blocks_for(bytes / 4), kThreads, 0, stream>>>({from.codes.data(), from.tokens, from.depth}, bytes / 4,
                                                                rows, dim, bits,
                                                                reinterpret_cast<std::uint32_t*>(to.data()));
  SAGE2_CUDA_CHECK_LAUNCH(pack_integers);
  return to;
}

std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

}  // namespace

MmaOperands pack_mma_operands(const DeviceOperands& operands, std::int64_t q_heads, std::int64_t kv_heads,
                              std::int64_t dim, bool int4, Format v, cudaStream_t stream) {
  MmaOperands out;
  out.q_rows = round_up(operands.q.tokens, kMmaQueryTile);
  out.kv_rows = round_up(operands.k.tokens, kMmaKeyTile);
  const int bits = int4 ? 4 : 8;
  out.q = packed_integers(operands.q, q_heads, out.q_rows, dim, bits, stream);
  out.k = packed_integers(operands.k, kv_heads, out.kv_rows, dim, bits, stream);
  const auto& part = operands.v.front();
  const Codes codes{part.codes.data(), part.tokens, part.count};
  const std::int64_t elements = kv_heads * out.kv_rows * dim;
  if (v == Format::fp16) {
    out.v = DeviceBuffer<std::uint8_t>(static_cast<std::size_t>(elements) * 2, stream);
    pack_halves<<<blocks_for(elements), kThreads, 0, stream>>>(codes, elements, out.kv_rows, dim,
                                                               reinterpret_cast<__half*>(out.v.data()));
    SAGE2_CUDA_CHECK_LAUNCH(pack_halves);
  } else {
    out.v = DeviceBuffer<std::uint8_t>(static_cast<std::size_t>(elements), stream);
    pack_transposed<<<blocks_for(elements / 4), kThreads, 0, stream>>>(codes, elements / 4, out.kv_rows, dim,
                                                                       reinterpret_cast<std::uint32_t*>(out.v.data()));
    SAGE2_CUDA_CHECK_LAUNCH(pack_transposed);
  }
  return out;
}

void round_output(float* o, std::int64_t count, OutFormat format, cudaStream_t stream) {
  if (format == OutFormat::exact || count == 0) return;
  round_all<<<blocks_for(count), kThreads, 0, stream>>>(o, count, format);
  SAGE2_CUDA_CHECK_LAUNCH(round_all);
}

}  // namespace sage2::cuda
