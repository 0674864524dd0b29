#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <fstream>
#include <memory>

#include "datasets/capture.hpp"
#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {
namespace {

class Hash {
 public:
  Hash() { XXH3_128bits_reset(state_.get()); }
  void add(const void* data, std::size_t size) { XXH3_128bits_update(state_.get(), data, size); }
  [[nodiscard]] std::string hex() const {
    const XXH128_hash_t digest = XXH3_128bits_digest(state_.get());
    return fmt::format("{:016x}{:016x}", digest.high64, digest.low64);
  }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_{XXH3_createState()};
};

}  // namespace

std::string content_hash(const CaptureReader& reader, const CellInfo& cell, const HeadVisitor& visit) {
  const Shape& s = cell.shape;
  Hash hash;
  const std::string head = fmt::format(
      "sage2-content/1 {} {} {} {} {} {} {} {} {} causal={} align={} scale={:08x}", s.batch, s.q_heads, s.kv_heads,
      s.q_len, s.kv_len, s.head_dim, to_string(cell.dtypes[0]), to_string(cell.dtypes[1]), to_string(cell.dtypes[2]),
      cell.is_causal ? 1 : 0, cell.causal_align == CausalAlign::top_left ? "top_left" : "bottom_right",
      std::bit_cast<std::uint32_t>(cell.sm_scale));
  hash.add(head.data(), head.size());
  std::vector<std::byte> bits;
  for (const TensorName name : {TensorName::q, TensorName::k, TensorName::v}) {
    const std::size_t heads = name == TensorName::q ? s.q_heads : s.kv_heads;
    for (std::size_t b = 0; b < s.batch; ++b) {
      for (std::size_t h = 0; h < heads; ++h) {
        reader.read_head_bits(cell, name, b, h, bits);
        hash.add(bits.data(), bits.size());
        if (visit) visit(name, b, h, bits);
      }
    }
  }
  return hash.hex();
}

std::string text_hash(std::string_view text) {
  Hash hash;
  hash.add(text.data(), text.size());
  return hash.hex();
}

std::string file_fingerprint(const std::filesystem::path& file) {
  constexpr std::uint64_t kEnd = std::uint64_t{1} << 20;
  std::error_code code;
  const std::uint64_t size = std::filesystem::file_size(file, code);
  std::ifstream in(file, std::ios::binary);
  if (code || !in) throw DataError(fmt::format("'{}': no such file, or it cannot be read", file.string()));
  Hash hash;
  const std::string head = fmt::format("sage2-file/1 {}", size);
  hash.add(head.data(), head.size());
  std::vector<char> block(std::min(size, kEnd));
  for (const std::uint64_t begin : {std::uint64_t{0}, size - block.size()}) {
    in.seekg(static_cast<std::streamoff>(begin));
    in.read(block.data(), static_cast<std::streamsize>(block.size()));
    if (!in) throw DataError(fmt::format("'{}' cannot be read", file.string()));
    hash.add(block.data(), block.size());
  }
  return hash.hex();
}

}  // namespace sage2
