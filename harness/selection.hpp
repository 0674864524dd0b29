#pragma once

#include <string>
#include <vector>

#include "datasets/capture.hpp"

/// Which cells and heads of a capture are wanted.
namespace sage2 {

/// A list of numbers as users write it: "0,2,5-8". Empty: everything.
class IndexList {
 public:
  IndexList() = default;
  /// Throws UsageError naming `option` where the text is no such list.
  IndexList(const std::string& text, const std::string& option);

  [[nodiscard]] bool all() const { return ranges_.empty(); }
  [[nodiscard]] bool contains(int index) const;
  /// "0,2,5-8", sorted and merged; "" for everything.
  [[nodiscard]] std::string to_string() const;

 private:
  struct Range {
    int first, last;
  };
  std::vector<Range> ranges_;
};

struct Selection {
  IndexList layers, timesteps, samples, heads;
};

/// The cells of a file that are selected. Throws UsageError where none is, naming the file and what it holds.
[[nodiscard]] std::vector<CellId> select_cells(const CaptureReader& reader, const Selection& selection);

/// The selected query heads of a cell, ascending. Throws DataError where none exists.
[[nodiscard]] std::vector<std::size_t> select_heads(const CaptureReader& reader, const CellInfo& cell,
                                                    const IndexList& heads);

/// "dit.h5: layer 2, timestep 12, sample 0".
[[nodiscard]] std::string cell_name(const CaptureReader& reader, const CellId& id);

}  // namespace sage2
