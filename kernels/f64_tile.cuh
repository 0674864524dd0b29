#pragma once

#include <cstdint>

#include "kernels/device_problem.hpp"
#include "kernels/load.cuh"

/// Tiles of K and V on their way from global memory, in any format, to shared memory in FP64.
namespace sage2::cuda {

/// One head of a tensor.
struct TileSource {
  const char* data;      ///< its first token
  std::int64_t stride;   ///< from token to token, in bytes
  std::int32_t tokens;   ///< beyond them come zeros
  std::int32_t columns;  ///< beyond them come zeros
  std::int32_t first_column;
  DType dtype;
  bool aligned;  ///< every fourth element from first_column on can be loaded with the three after it
};

__device__ inline int element_bytes(DType dtype) {
  return dtype == DType::float32 ? 4 : 2;
}

__device__ inline TileSource tile_source(const TensorView& t, std::int64_t head, int first_column, bool aligned) {
  const std::int64_t offset = head / t.heads * t.stride_batch + head % t.heads * t.stride_head;
  const int bytes = element_bytes(t.dtype);
  return {static_cast<const char*>(t.data) + offset * bytes,
          t.stride_token * bytes,
          static_cast<std::int32_t>(t.tokens),
          static_cast<std::int32_t>(t.channels),
          first_column,
          t.dtype,
          aligned};
}

/// Brings four neighbouring channels of a token, from 4 `unit` on, to `to` in shared memory as they are stored (16-bit
/// formats in the first 8 bytes), zeros where there are none. Without waiting, where their addresses allow.
__device__ inline void fetch_four(const TileSource& from, std::int64_t row, int unit, uint4* to) {
  const int column = from.first_column + 4 * unit;
  const int count = row < from.tokens ? min(4, from.columns - column) : 0;
  const int bytes = element_bytes(from.dtype);
  const char* at = from.data + row * from.stride + static_cast<std::int64_t>(column) * bytes;
  if (from.aligned && count == 4) {
    const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
    // https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-cp-async
    if (bytes == 4) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(at) : "memory");
    } else {
      asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared), "l"(at) : "memory");
    }
    return;
  }
  uint4 raw{0, 0, 0, 0};
  if (bytes == 4) {
    const auto* x = reinterpret_cast<const std::uint32_t*>(at);
    if (count > 0) raw.x = __ldg(x);
    if (count > 1) raw.y = __ldg(x + 1);
    if (count > 2) raw.z = __ldg(x + 2);
    if (count > 3) raw.w = __ldg(x + 3);
  } else {
    const auto* x = reinterpret_cast<const std::uint16_t*>(at);
    if (count > 0) raw.x = __ldg(x);
    if (count > 1) raw.x |= static_cast<std::uint32_t>(__ldg(x + 1)) << 16;
    if (count > 2) raw.y = __ldg(x + 2);
    if (count > 3) raw.y |= static_cast<std::uint32_t>(__ldg(x + 3)) << 16;
  }
  *to = raw;
}

/// Waits for what this thread has fetched.
__device__ inline void wait_fetched() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

/// The four channels as FP32, which holds each stored format exactly.
__device__ inline float4 widen(const uint4& raw, DType dtype) {
  if (dtype == DType::float32) {
    return {__uint_as_float(raw.x), __uint_as_float(raw.y), __uint_as_float(raw.z), __uint_as_float(raw.w)};
  }
  if (dtype == DType::bfloat16) {
    return {__uint_as_float(raw.x << 16), __uint_as_float(raw.x & 0xFFFF0000U), __uint_as_float(raw.y << 16),
            __uint_as_float(raw.y & 0xFFFF0000U)};
  }
  const auto half = [](std::uint32_t bits) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
  };
  return {half(raw.x & 0xFFFFU), half(raw.x >> 16), half(raw.y & 0xFFFFU), half(raw.y >> 16)};
}

__device__ inline bool finite(const float4& x) {
  const auto is = [](float f) { return (__float_as_uint(f) & 0x7F800000U) != 0x7F800000U; };
  return is(x.x) && is(x.y) && is(x.z) && is(x.w);
}

/// How a tile of K or V moves: all threads of a block fetch it as it is stored into a staging area, and later each
/// widens what it fetched itself to FP64. A row in shared memory is kUnits times 32 bytes. So that lanes that read
/// different rows meet different banks, K has the 16-byte halves of a unit swapped in odd rows, and V has the units of
/// 128 bytes permuted by bits 1 and 2 of the row.
template <int kThreads, int kRows, int kUnits, bool kIsK>
struct TileMover {
  static constexpr int kShare = kRows * kUnits / kThreads;
  static_assert(kRows * kUnits % kThreads == 0 && kUnits % 8 == 0);

  __device__ static void fetch(const TileSource& from, int first_row, uint4* staging) {
#pragma unroll 2
    for (int i = 0; i < kShare; ++i) {
      const int u = static_cast<int>(threadIdx.x) + i * kThreads;
      fetch_four(from, first_row + u / kUnits, u % kUnits, staging + u);
    }
  }

  /// Returns whether all that this thread placed is finite.
  __device__ static bool place(const uint4* staging, DType dtype, double* to) {
    wait_fetched();
    bool all_finite = true;
#pragma unroll 2
    for (int i = 0; i < kShare; ++i) {
      const int u = static_cast<int>(threadIdx.x) + i * kThreads;
      const int row = u / kUnits;
      const int unit = u % kUnits;
      const float4 x = widen(staging[u], dtype);
      all_finite = all_finite && finite(x);
      const double2 low{x.x, x.y};
      const double2 high{x.z, x.w};
      const int at = kIsK ? unit : unit ^ ((row >> 1) & 3);
      // Lanes 4 to 7 of eight begin with the second half, or they would meet the banks of lanes 0 to 3.
      const int begin = (unit >> 2) & 1;
      const bool low_first = begin == (kIsK ? row & 1 : 0);
      auto* out = reinterpret_cast<double2*>(to) + 2 * (row * kUnits + at);
      out[begin] = low_first ? low : high;
      out[begin ^ 1] = low_first ? high : low;
    }
    return all_finite;
  }
};

}  // namespace sage2::cuda
