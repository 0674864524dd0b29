#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/sm90_tensor_map.hpp"

/// Hopper's barriers in shared memory, bulk copies, register shares and some other loads and stores, one instruction a
/// function.
namespace sage2::cuda::sm90 {

__device__ __forceinline__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// 16 bytes of shared memory.
__device__ __forceinline__ uint4 load_shared(std::uint32_t address) {
  uint4 x;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(address)
               : "memory");
  return x;
}
/// 4 or 8 bytes to device memory that are not to stay in L2.
__device__ __forceinline__ void store_streaming(void* to, unsigned x) {
  asm volatile("st.global.cs.b32 [%0], %1;\n" ::"l"(to), "r"(x) : "memory");
}
__device__ __forceinline__ void store_streaming(void* to, uint2 x) {
  asm volatile("st.global.cs.v2.b32 [%0], {%1, %2};\n" ::"l"(to), "r"(x.x), "r"(x.y) : "memory");
}

/// A barrier whose phase ends when `count` threads have arrived and all announced bytes have landed.
struct alignas(8) Barrier {
  std::uint64_t word;

  __device__ __forceinline__ void init(int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(&word)), "r"(count) : "memory");
  }
  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(&word)) : "memory");
  }
  /// Arrives and announces bytes that bulk copies will bring.
  __device__ __forceinline__ void expect(std::uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(&word)), "r"(bytes)
                 : "memory");
  }
  /// Waits for the end of the phase of this parity.
  __device__ __forceinline__ void wait(std::uint32_t parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}\n" ::"r"(shared_address(&word)),
        "r"(parity)
        : "memory");
  }
};

/// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

/// Copies `bytes` (a multiple of 16, both sides aligned to 16) from device to shared memory; completes on the barrier.
__device__ __forceinline__ void bulk_copy(void* shared, const void* global, std::uint32_t bytes, Barrier& barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(&barrier.word))
               : "memory");
}

/// For copies of what is not read again: L2 drops it first. Or for all others.
__device__ __forceinline__ std::uint64_t cache_policy(bool last_look) {
  std::uint64_t policy;
  if (last_look) {
    asm("createpolicy.fractional.L2::evict_first.b64 %0;\n" : "=l"(policy));
  } else {
    asm("createpolicy.fractional.L2::evict_normal.b64 %0;\n" : "=l"(policy));
  }
  return policy;
}

/// Copies a box of a tensor (sm90_tensor_map.hpp) that begins at these coordinates, with a cache policy.
__device__ __forceinline__ void tensor_copy(void* shared, const CUtensorMap& map, int channel, int token, int head,
                                            int batch, Barrier& barrier, std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3, %4, %5}], [%6], %7;\n" ::"r"(shared_address(shared)),
      "l"(&map), "r"(channel), "r"(token), "r"(head), "r"(batch), "r"(shared_address(&barrier.word)), "l"(policy)
      : "memory");
}

/// Byte of a row's 16-byte chunk 0 .. 7 in box `box` where boxes of `rows` rows have been copied one after the other.
/// Chunks are exchanged as the copy engine does it, so that reads along a row and down a column touch all banks.
__device__ __forceinline__ int box_offset(int rows, int row, int box, int chunk) {
  return box * (rows * 128) + row * 128 + (chunk ^ (row % 8)) * 16;
}

/// Copies kRows rows of kDim channels as boxes.
template <int kDim, int kRows>
__device__ __forceinline__ void copy_rows(std::uint8_t* shared, const CUtensorMap& map, int token, int head, int batch,
                                          Barrier& barrier, std::uint64_t policy) {
#pragma unroll
  for (int c = 0; c < kDim / kBoxChannels; ++c) {
    tensor_copy(shared + c * (kRows * 128), map, c * kBoxChannels, token, head, batch, barrier, policy);
  }
}

/// What this thread wrote to shared memory comes before later bulk copies into it, and before tensor cores read it.
__device__ __forceinline__ void fence_before_bulk_copy() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

/// What this thread knows to be written, in shared or device memory, comes before its later bulk copies.
__device__ __forceinline__ void fence_before_copy_of_results() {
  asm volatile("fence.proxy.async;\n" ::: "memory");
}

/// Waits for `threads` threads at hardware barrier `id` (1..15; 0 is __syncthreads).
__device__ __forceinline__ void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

/// Takes or gives back registers, for the whole warpgroup.
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}

/// Adds to a counter in device memory where nobody needs the sum; what this thread has seen written before is visible
/// to whoever sees the sum.
__device__ __forceinline__ void count_in_order(int* counter, int value) {
  asm volatile("red.release.gpu.global.add.s32 [%0], %1;\n" ::"l"(counter), "r"(value) : "memory");
}

/// Waits until a counter is at `total`: one thread.
__device__ __forceinline__ void await(const int* counter, int total) {
  int seen;
  do {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];\n" : "=r"(seen) : "l"(counter) : "memory");
  } while (seen < total);
}

/// A position in a ring of stages, and the parity of its barriers.
template <int kStages>
struct RingPosition {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace sage2::cuda::sm90
