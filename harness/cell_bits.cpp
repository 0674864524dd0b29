#include "harness/cell_bits.hpp"

#include "datasets/convert.hpp"
#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {
namespace {

std::size_t head_count(const CellInfo& cell, TensorName name) {
  return name == TensorName::q ? cell.shape.q_heads : cell.shape.kv_heads;
}

std::size_t head_length(const CellInfo& cell, TensorName name) {
  return name == TensorName::q ? cell.shape.q_len : cell.shape.kv_len;
}

}  // namespace

void require_finite(const CaptureReader& reader, const CellInfo& cell, TensorName name, std::size_t batch,
                    std::size_t head, const std::optional<NonFinite>& bad) {
  if (!bad) return;
  throw DataError(
      fmt::format("{}: {}: {} of {} values of batch {}, head {} are not finite, the first at token {}, channel {}",
                  reader.file().string(), cell.paths[static_cast<std::size_t>(name)], bad->count,
                  head_length(cell, name) * cell.shape.head_dim, batch, head, bad->row, bad->col));
}

CellBits::CellBits(const CaptureReader& reader, const CellInfo& cell, std::size_t keep)
    : reader_(&reader), cell_(cell) {
  if (keep == 0) {
    hash_ = content_hash(reader, cell);
    return;
  }
  const bool kept = stored_bytes(cell) <= keep;
  for (const auto name : {TensorName::q, TensorName::k, TensorName::v}) {
    heads_.at(static_cast<std::size_t>(name)).resize(cell.shape.batch * head_count(cell, name));
  }
  hash_ = content_hash(reader, cell, [&](TensorName name, std::size_t b, std::size_t h, std::vector<std::byte>& bits) {
    const auto tensor = static_cast<std::size_t>(name);
    auto& slot = heads_.at(tensor)[place(name, b, h)];
    slot.bad = first_nonfinite(cell.dtypes.at(tensor), bits, cell.shape.head_dim);
    if (kept) slot.bits = std::make_shared<const std::vector<std::byte>>(std::move(bits));
  });
}

std::size_t CellBits::place(TensorName name, std::size_t batch, std::size_t head) const {
  return batch * head_count(cell_, name) + head;
}

HeadBits CellBits::head(TensorName name, std::size_t batch, std::size_t head) const {
  const auto& heads = heads_.at(static_cast<std::size_t>(name));
  if (!heads.empty() && heads[place(name, batch, head)].bits) return heads[place(name, batch, head)].bits;
  std::vector<std::byte> bits;
  reader_->read_head_bits(cell_, name, batch, head, bits);
  return std::make_shared<const std::vector<std::byte>>(std::move(bits));
}

void CellBits::check(TensorName name, std::size_t batch, std::size_t head) const {
  require_finite(*reader_, cell_, name, batch, head,
                 heads_.at(static_cast<std::size_t>(name)).at(place(name, batch, head)).bad);
}

std::size_t stored_bytes(const CellInfo& cell) {
  std::size_t bytes = 0;
  for (const auto name : {TensorName::q, TensorName::k, TensorName::v}) {
    bytes += cell.shape.batch * head_count(cell, name) * head_length(cell, name) * cell.shape.head_dim *
             byte_size(cell.dtypes.at(static_cast<std::size_t>(name)));
  }
  return bytes;
}

}  // namespace sage2
