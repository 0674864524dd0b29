#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <vector>

#include "harness/cell_bits.hpp"
#include "kernels/device_buffer.hpp"
#include "kernels/device_problem.hpp"
#include "kernels/emulate.hpp"
#include "reference/variant.hpp"

/// Attention problems on a device, and variants run on them.
namespace sage2 {

/// Heads of one attention call in the host's memory, as they are stored. Query head i attends to key/value head
/// i / (q.size() / k.size()).
struct HostHeads {
  std::array<DType, 3> dtypes{};  ///< of q, k and v
  DType dtype = DType::float16;   ///< of the capture: the widest
  std::size_t q_len = 0, kv_len = 0, head_dim = 0;
  bool is_causal = false;
  CausalAlign causal_align = CausalAlign::bottom_right;
  float sm_scale = 1;
  std::vector<HeadBits> q, k, v;             ///< [length, head_dim] each
  std::size_t first_row = 0, row_count = 0;  ///< rows wanted, the same of every head (all of them: 0, q_len) ...
  std::vector<std::uint32_t> rows;           ///< ... or any row_count of each query head, one head after the other

  [[nodiscard]] std::size_t bytes() const;
};

/// What is known of a cell before its heads: formats, sizes, mask and scale, all rows wanted.
[[nodiscard]] HostHeads heads_of(const CellInfo& cell);

/// The same on a device.
class DeviceHeads {
 public:
  DeviceHeads() = default;
  /// Copies in the order of the stream; `host` may go once this returns.
  DeviceHeads(const HostHeads& host, cudaStream_t stream);

  [[nodiscard]] const cuda::DeviceProblem& problem() const { return problem_; }
  /// Null rows where all are wanted.
  [[nodiscard]] cuda::RowSelection rows() const { return {rows_.data(), rows_.empty() ? 0 : row_count_}; }
  [[nodiscard]] std::int64_t q_count() const { return problem_.q_count(); }
  [[nodiscard]] std::int64_t head_dim() const { return problem_.q.channels; }
  [[nodiscard]] std::int64_t row_count() const { return row_count_; }  ///< rows computed of each head
  /// Where one range of rows is computed, the same in every head, its first row; else -1.
  [[nodiscard]] std::int64_t first_row() const { return first_row_; }

 private:
  cuda::DeviceBuffer<std::byte> q_, k_, v_;
  cuda::DeviceBuffer<std::uint32_t> rows_;
  cuda::DeviceProblem problem_;
  std::int64_t row_count_ = 0, first_row_ = 0;
};

/// A variant's output and counts on all query heads. Tensor cores compute all rows; a range of rows is copied out of
/// them, and the counts are of all.
class VariantRun {
 public:
  /// Does not wait for the stream. Throws std::logic_error where tensor cores are asked for rows that are no range.
  VariantRun(const DeviceHeads& heads, const Variant& variant, bool tensor_cores, cudaStream_t stream);
  /// [q_count, row_count, head_dim] in device memory.
  [[nodiscard]] const float* output() const { return o_.data(); }
  [[nodiscard]] std::vector<float> download() const { return o_.download(); }  ///< waits for the stream
  /// Counts of each query head, with the codes of Q, K and V in `saturated`. Waits for the stream.
  [[nodiscard]] std::vector<cuda::LoopCounts> counts() const;

 private:
  cuda::DeviceBuffer<float> o_;
  cuda::DeviceBuffer<cuda::LoopCounts> counts_;
  cuda::DeviceBuffer<std::uint64_t> saturated_;  ///< codes of Q, K and V, where they are counted apart
};

}  // namespace sage2
