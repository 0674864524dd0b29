#pragma once

#include <cstdint>

#include "kernels/device_problem.hpp"
#include "kernels/load.cuh"

/// Tiles of Q, K and V on their way from global memory, in any format and layout, to shared memory.
namespace sage2::cuda {

/// A tensor whose heads are tiled, as kernel parameters hold it.
struct TileSource {
  TensorView view;
  std::int64_t row_bytes;  ///< from token to token
  std::int32_t tokens;     ///< beyond them come zeros
  std::int32_t channels;   ///< likewise
  bool aligned;            ///< channels come in whole runs of four, each of which can be loaded at once
};

__host__ __device__ inline int element_bytes(DType dtype) {
  return dtype == DType::float32 ? 4 : 2;
}

/// A channel of the first token of a head.
__device__ inline const char* channel_of(const TileSource& from, std::int64_t head, int channel) {
  const TensorView& t = from.view;
  const std::int64_t offset = head / t.heads * t.stride_batch + head % t.heads * t.stride_head + channel;
  return static_cast<const char*>(t.data) + offset * element_bytes(t.dtype);
}

/// Up to four neighbouring channels, one by one, as they are stored (16-bit formats in x and y); zeros for the others.
__device__ inline uint4 load_four(const char* at, int count, DType dtype) {
  uint4 raw{0, 0, 0, 0};
  if (dtype == DType::float32) {
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
  return raw;
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

/// How tiles of K or V move: the threads of a block fetch a tile as it is stored into a staging area, without waiting,
/// and later each widens to FP64 what it fetched itself, and fetches the same places of the tile after.
///
/// A row in shared memory is kUnits times 32 bytes. So that lanes that read different rows meet different banks, K has
/// the 16-byte halves of a unit swapped in odd rows, and V has the units of 128 bytes permuted by bits 1 and 2 of the
/// row.
template <int kThreads, int kRows, int kUnits, bool kIsK>
class TileMover {
 public:
  using Staging = uint4[kRows * kUnits];

  /// `from` must be a kernel parameter: it is read where it is.
  __device__ TileMover(const TileSource& from, std::int64_t head, int first_channel, Staging& staging, double* to)
      : from_(from),
        at_(channel_of(from, head, first_channel + 4 * unit())),
        channels_(min(4, from.channels - first_channel - 4 * unit())),
        staging_(staging + threadIdx.x),
        to_(to) {}

  /// Starts to fetch the tile that begins at a row.
  __device__ void fetch(int first_row) {
#pragma unroll 1
    for (int i = 0; i < kShare; ++i) fetch(first_row, i);
    commit();
  }

  /// Places the tile that is in the staging area and starts to fetch the one at `next_row`. Returns whether all that
  /// this thread placed is finite. kPending: how many fetches of this thread, begun after that of this tile, may still
  /// be under way.
  template <int kPending>
  __device__ bool place(int next_row) {
    // https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-cp-async-wait-group
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
    bool all_finite = true;
#pragma unroll 2
    for (int i = 0; i < kShare; ++i) {
      const float4 x = widen(staging_[i * kThreads], from_.view.dtype);
      fetch(next_row, i);
      all_finite = all_finite && finite(x);
      const double2 low{x.x, x.y};
      const double2 high{x.z, x.w};
      const int row = row_of(i);
      const int at = kIsK ? unit() : unit() ^ ((row >> 1) & 3);
      // Lanes 4 to 7 of eight begin with the second half, or they would meet the banks of lanes 0 to 3.
      const int begin = (unit() >> 2) & 1;
      const bool low_first = begin == (kIsK ? row & 1 : 0);
      auto* out = reinterpret_cast<double2*>(to_) + 2 * (row * kUnits + at);
      out[begin] = low_first ? low : high;
      out[begin ^ 1] = low_first ? high : low;
    }
    commit();
    return all_finite;
  }

 private:
  static constexpr int kShare = kRows * kUnits / kThreads;
  static_assert(kThreads % kUnits == 0 && kRows * kUnits % kThreads == 0 && kUnits % 8 == 0);

  __device__ static int unit() {
    return static_cast<int>(threadIdx.x) % kUnits;
  }
  __device__ static int row_of(int i) {
    return static_cast<int>(threadIdx.x) / kUnits + i * (kThreads / kUnits);
  }

  __device__ void fetch(int first_row, int i) {
    const int row = first_row + row_of(i);
    const bool is_there = row < from_.tokens && channels_ > 0;
    const char* at = is_there ? at_ + row * from_.row_bytes : static_cast<const char*>(from_.view.data);
    uint4* const to = staging_ + i * kThreads;
    if (!from_.aligned) {
      *to = load_four(at, is_there ? channels_ : 0, from_.view.dtype);
      return;
    }
    const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
    // `size` bytes are read, the others become zeros.
    // https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-cp-async
    if (from_.view.dtype == DType::float32) {
      const int size = is_there ? 16 : 0;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(at), "r"(size) : "memory");
    } else {
      const int size = is_there ? 8 : 0;
      asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared), "l"(at), "r"(size) : "memory");
    }
  }
  __device__ static void commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  const TileSource& from_;
  const char* at_;  ///< this thread's channels in the first token
  int channels_;    ///< how many of them there are
  uint4* staging_;
  double* to_;
};

}  // namespace sage2::cuda
