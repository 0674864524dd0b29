#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "datasets/capture.hpp"
#include "reference/metrics.hpp"
#include "reference/variant.hpp"
#include "reports/record.hpp"

/// From what an engine found to a record: the same for every engine.
namespace sage2 {

/// A variant and how it was asked for.
struct NamedVariant {
  std::string name;
  std::string canonical;
  Variant variant;
};

/// What an engine found on one query head.
struct HeadOutcome {
  int batch = 0, head = 0;
  ErrorStats stats;
  std::vector<ErrorSums> row_sums;  ///< of each evaluated row, where not all rows were
  std::uint64_t p_underflow = 0, p_total = 0, saturated = 0;
};

/// Adds what was found on more rows of the same head.
void append(HeadOutcome& into, HeadOutcome&& more);

/// What it found for one variant on all selected heads of a cell.
struct VariantOutcome {
  std::string engine;  ///< "emulated" or "native"
  double seconds = 0;
  std::vector<HeadOutcome> heads;  ///< by batch entry, then by head
};

/// `selected_heads`: query heads that were evaluated, of those the cell has. `seed`: of the choice of rows, if any.
[[nodiscard]] Record make_record(const CaptureReader& reader, const CellInfo& cell, const NamedVariant& variant,
                                 std::string key, const char* device, std::size_t selected_heads, std::uint64_t seed,
                                 VariantOutcome&& outcome);

}  // namespace sage2
