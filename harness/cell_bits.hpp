#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "datasets/capture.hpp"

/// The stored values of a cell, read once for its hash and kept for the engine where they fit.
namespace sage2 {

/// Stored values of one head; whoever uses them shares them.
using HeadBits = std::shared_ptr<const std::vector<std::byte>>;

/// Throws DataError naming file, dataset and place of the first value that is NaN or infinite, where there is one.
void require_finite(const CaptureReader& reader, const CellInfo& cell, TensorName name, std::size_t batch,
                    std::size_t head, const std::optional<NonFinite>& bad);

class CellBits {
 public:
  /// Reads every head: for the content hash, and where `keep` is set to look for NaN and infinity and to keep what was
  /// read if it is at most `keep` bytes. Calls HDF5, as `head` does: both belong to the thread that reads.
  CellBits(const CaptureReader& reader, const CellInfo& cell, std::size_t keep);

  [[nodiscard]] const std::string& hash() const { return hash_; }
  /// One head: as kept, or read again.
  [[nodiscard]] HeadBits head(TensorName name, std::size_t batch, std::size_t head) const;
  /// Throws as `require_finite` does. Only where the constructor was told to look.
  void check(TensorName name, std::size_t batch, std::size_t head) const;

  [[nodiscard]] const CaptureReader& reader() const { return *reader_; }
  [[nodiscard]] const CellInfo& cell() const { return cell_; }

 private:
  struct Head {
    HeadBits bits;
    std::optional<NonFinite> bad;
  };
  [[nodiscard]] std::size_t place(TensorName name, std::size_t batch, std::size_t head) const;

  const CaptureReader* reader_;
  CellInfo cell_;
  std::array<std::vector<Head>, 3> heads_;
  std::string hash_;
};

/// Bytes of all of Q, K and V as stored.
[[nodiscard]] std::size_t stored_bytes(const CellInfo& cell);

}  // namespace sage2
