#include "kernels/emulate_layout.hpp"

#include <algorithm>
#include <optional>
#include <vector>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "kernels/cuda_check.hpp"

namespace sage2::cuda {
namespace {

/// Shared memory is handed out from its start, in pieces of whole 16 bytes.
class Pieces {
 public:
  std::uint32_t take(std::size_t bytes) {
    const std::uint32_t at = size_;
    size_ += static_cast<std::uint32_t>((bytes + 15) / 16 * 16);
    return at;
  }
  [[nodiscard]] std::uint32_t size() const { return size_; }

 private:
  std::uint32_t size_ = 0;
};

std::int64_t value_bytes(Product how, std::int64_t depth, std::int64_t stride) {
  return depth * stride * value_size(how);
}
std::int64_t exponent_bytes(Product how, std::int64_t depth, std::int64_t stride) {
  return has_exponents(how) ? depth / 2 * stride * 4 : 0;
}

struct Cut {
  std::int64_t rows;   ///< query rows of a block
  std::int64_t chunk;  ///< k staged at a time
  bool resident;       ///< the whole of Q stays in shared memory
  std::int32_t slice;  ///< channels of V
};

LoopLayout layout_of(const LoopParams& p, const Cut& cut) {
  LoopLayout l{};
  const std::int64_t rows = cut.rows;
  const std::int64_t depth = p.depth;
  const bool integer = p.qk.how == Product::integer;
  // Integer codes are small: all channels at once.
  l.qk_chunk = static_cast<std::int32_t>(integer ? depth : std::min(cut.chunk, depth));
  l.q_depth = cut.resident ? p.depth : l.qk_chunk;
  l.pv_chunk = static_cast<std::int32_t>(cut.chunk);
  l.slice = cut.slice;
  l.slices = (p.part[0].count + cut.slice - 1) / cut.slice;
  const auto keys = std::min<std::int64_t>(cut.chunk, p.k_tile);
  std::int64_t p_values = 0;
  std::int64_t p_exponents = 0;
  std::int64_t b_values = value_bytes(p.qk.how, l.qk_chunk, b_stride(p.qk.how));
  std::int64_t b_exponents = exponent_bytes(p.qk.how, l.qk_chunk, b_stride(p.qk.how));
  for (int i = 0; i < p.parts; ++i) {
    const auto how = p.part[i].product.how;
    // `light` multiplies P where the softmax left it.
    if (how != Product::light) p_values = std::max(p_values, value_bytes(how, keys, rows));
    p_exponents = std::max(p_exponents, exponent_bytes(how, keys, rows));
    b_values = std::max(b_values, value_bytes(how, keys, b_stride(how)));
    b_exponents = std::max(b_exponents, exponent_bytes(how, keys, b_stride(how)));
  }
  Pieces pieces;
  l.rows = pieces.take(rows == 64 ? sizeof(RowState<64>) : sizeof(RowState<32>));
  l.k_scale = pieces.take(p.k_tile * 4);
  l.s = pieces.take(p.k_tile * rows * 4);
  l.q = pieces.take(value_bytes(p.qk.how, l.q_depth, rows));
  l.q_exponents = pieces.take(exponent_bytes(p.qk.how, l.q_depth, rows));
  l.p = pieces.take(p_values);
  l.p_exponents = pieces.take(p_exponents);
  l.b = pieces.take(b_values);
  l.b_exponents = pieces.take(b_exponents);
  for (int i = 0; i < p.parts; ++i) {
    const std::int64_t channels = i == 0 ? std::min(cut.slice, p.part[0].count) : p.part[i].count;
    l.o[i] = pieces.take(channels * rows * (p.part[i].product.how == Product::fp64 ? 8 : 4));
  }
  l.size = pieces.size();
  return l;
}

/// The first of some cuts that fits.
std::optional<LoopLayout> first_fit(const LoopParams& p, std::int64_t rows, std::uint32_t bytes, bool sliced) {
  std::vector<std::int32_t> slices{p.part[0].count};
  if (sliced) slices.insert(slices.end(), {128, 64});
  for (const auto slice : slices) {
    if (slice > p.part[0].count) continue;
    for (const std::int64_t chunk : {64, 32}) {
      for (const bool resident : {true, false}) {
        const auto layout = layout_of(p, {rows, chunk, resident, slice});
        if (layout.size <= bytes) return layout;
      }
    }
  }
  return std::nullopt;
}

}  // namespace

LoopFit fit_loop(const LoopParams& params, std::int64_t q_heads, const SharedMemory& device) {
  constexpr std::uint32_t kReserved = 1024;  // of each block, by the driver
  // Blocks of 64 rows share more, those of 32 occupy the device sooner. Two, or four, of them hide each other's
  // waiting.
  const std::int64_t large_blocks = q_heads * ((params.row_count + 63) / 64);
  for (const int rows : {64, 32}) {
    if (rows == 64 && large_blocks < device.multiprocessors) continue;
    const std::uint32_t together = rows == 64 ? 2 : 4;
    const std::uint32_t shared = std::min(device.of_multiprocessor / together - kReserved, device.of_block);
    if (const auto layout = first_fit(params, rows, shared, false)) return {rows, *layout};
    if (const auto layout = first_fit(params, rows, device.of_block, true)) return {rows, *layout};
  }
  const Cut least{32, 32, false, std::min(64, params.part[0].count)};
  throw DeviceError(fmt::format("a key tile of {} keys needs {} KiB of shared memory; this GPU gives a block {} KiB",
                                params.k_tile, (layout_of(params, least).size + 1023) / 1024, device.of_block / 1024));
}

LoopFit fit_loop(const LoopParams& params, std::int64_t q_heads) {
  int device = 0;
  SAGE2_CUDA_CHECK(cudaGetDevice(&device));
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    SAGE2_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device));
    return value;
  };
  return fit_loop(params, q_heads,
                  {attribute(cudaDevAttrMultiProcessorCount),
                   static_cast<std::uint32_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)),
                   static_cast<std::uint32_t>(attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor))});
}

}  // namespace sage2::cuda
