#include "harness/cuda_heads.hpp"

#include <cstddef>
#include <numeric>
#include <stdexcept>

#include "datasets/convert.hpp"
#include "kernels/native.hpp"
#include "kernels/quantize.hpp"

namespace sage2 {
namespace {

cuda::DeviceBuffer<std::byte> upload(const std::vector<HeadBits>& heads, cudaStream_t stream) {
  const std::size_t size = heads.front()->size();
  cuda::DeviceBuffer<std::byte> memory(heads.size() * size, stream);
  for (std::size_t i = 0; i < heads.size(); ++i) {
    SAGE2_CUDA_CHECK(cudaMemcpyAsync(memory.data() + i * size, heads[i]->data(), size, cudaMemcpyHostToDevice, stream));
  }
  return memory;
}

cuda::TensorView view(const cuda::DeviceBuffer<std::byte>& memory, DType dtype, std::size_t heads, std::size_t tokens,
                      std::size_t channels) {
  const auto n = static_cast<std::int64_t>(heads);
  const auto rows = static_cast<std::int64_t>(tokens);
  const auto cols = static_cast<std::int64_t>(channels);
  return {memory.data(), dtype, 1, n, rows, cols, n * rows * cols, rows * cols, cols};
}

/// The same range of rows in every head.
std::vector<std::uint32_t> range_of_rows(std::size_t heads, std::size_t first, std::size_t count) {
  std::vector<std::uint32_t> rows(heads * count);
  for (std::size_t h = 0; h < heads; ++h) {
    const auto begin = rows.begin() + static_cast<std::ptrdiff_t>(h * count);
    std::iota(begin, begin + static_cast<std::ptrdiff_t>(count), static_cast<std::uint32_t>(first));
  }
  return rows;
}

/// A tensor core's output of all rows, cut to the range wanted.
void attend(const DeviceHeads& heads, const Variant& variant, cuda::DeviceBuffer<float>& o, cuda::LoopCounts* counts,
            cudaStream_t stream) {
  const auto q_len = heads.problem().q.tokens;
  if (heads.row_count() == q_len && heads.first_row() == 0) {
    cuda::attend_on_tensor_cores(heads.problem(), variant, o.data(), counts, stream);
    return;
  }
  if (heads.first_row() < 0) throw std::logic_error("kernels for tensor cores compute all rows: they cannot skip some");
  const auto row = static_cast<std::size_t>(heads.head_dim());
  cuda::DeviceBuffer<float> all(static_cast<std::size_t>(heads.q_count() * q_len) * row, stream);
  cuda::attend_on_tensor_cores(heads.problem(), variant, all.data(), counts, stream);
  const auto width = static_cast<std::size_t>(heads.row_count()) * row * sizeof(float);
  SAGE2_CUDA_CHECK(cudaMemcpy2DAsync(o.data(), width, all.data() + static_cast<std::size_t>(heads.first_row()) * row,
                                     static_cast<std::size_t>(q_len) * row * sizeof(float), width,
                                     static_cast<std::size_t>(heads.q_count()), cudaMemcpyDeviceToDevice, stream));
}

}  // namespace

HostHeads heads_of(const CellInfo& cell) {
  HostHeads heads;
  heads.dtypes = cell.dtypes;
  heads.dtype = cell.dtype;
  heads.q_len = cell.shape.q_len;
  heads.kv_len = cell.shape.kv_len;
  heads.head_dim = cell.shape.head_dim;
  heads.is_causal = cell.is_causal;
  heads.causal_align = cell.causal_align;
  heads.sm_scale = cell.sm_scale;
  heads.row_count = cell.shape.q_len;
  return heads;
}

std::size_t HostHeads::bytes() const {
  std::size_t sum = rows.size() * sizeof(std::uint32_t);
  for (const auto* heads : {&q, &k, &v}) {
    for (const auto& head : *heads) sum += head->size();
  }
  return sum;
}

DeviceHeads::DeviceHeads(const HostHeads& host, cudaStream_t stream)
    : q_(upload(host.q, stream)), k_(upload(host.k, stream)), v_(upload(host.v, stream)) {
  problem_.q = view(q_, host.dtypes[0], host.q.size(), host.q_len, host.head_dim);
  problem_.k = view(k_, host.dtypes[1], host.k.size(), host.kv_len, host.head_dim);
  problem_.v = view(v_, host.dtypes[2], host.v.size(), host.kv_len, host.head_dim);
  problem_.dtype = host.dtype;
  problem_.is_causal = host.is_causal;
  problem_.causal_align = host.causal_align;
  problem_.sm_scale = host.sm_scale;
  row_count_ = static_cast<std::int64_t>(host.row_count);
  first_row_ = host.rows.empty() ? static_cast<std::int64_t>(host.first_row) : -1;
  if (host.rows.empty() && host.row_count == host.q_len) return;
  const auto rows = host.rows.empty() ? range_of_rows(host.q.size(), host.first_row, host.row_count) : host.rows;
  rows_ = cuda::DeviceBuffer<std::uint32_t>(rows.size(), stream);
  rows_.upload(rows);
}

VariantRun::VariantRun(const DeviceHeads& heads, const Variant& variant, bool tensor_cores, cudaStream_t stream)
    : o_(static_cast<std::size_t>(heads.q_count() * heads.row_count() * heads.head_dim()), stream),
      counts_(static_cast<std::size_t>(heads.q_count()), stream) {
  counts_.zero();
  if (tensor_cores) {
    attend(heads, variant, o_, counts_.data(), stream);
    return;
  }
  auto operands = cuda::quantize(heads.problem(), variant, stream);
  cuda::emulate(heads.problem(), variant, operands, heads.rows(), o_.data(), counts_.data(), stream);
  saturated_ = std::move(operands.saturated);
}

std::vector<cuda::LoopCounts> VariantRun::counts() const {
  auto counts = counts_.download();
  const auto codes = saturated_.download();
  for (std::size_t i = 0; i < codes.size(); ++i) counts[i].saturated += codes[i];
  return counts;
}

}  // namespace sage2
