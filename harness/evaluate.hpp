#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "datasets/capture.hpp"
#include "harness/outcome.hpp"
#include "harness/selection.hpp"

/// From one cell of a capture to its records, on the CPU; and what all engines agree on.
namespace sage2 {

struct EvaluationPlan {
  IndexList heads;
  std::optional<std::size_t> queries;  ///< evaluate only so many query rows of each head
  std::uint64_t seed = 0;              ///< of their choice
};

/// Key of a record: a hash of the cell's content, the variant, and which heads and rows were evaluated; and of the
/// meaning of variants (`kNumericsVersion`), so that records of an older emulation are not taken for new ones.
[[nodiscard]] std::string record_key(const std::string& content_hash, const NamedVariant& variant,
                                     const EvaluationPlan& plan);

/// Counts up whenever the numbers of any variant change.
inline constexpr int kNumericsVersion = 2;

/// The query rows to evaluate of one head, or none for all. Every head draws its own.
[[nodiscard]] std::vector<std::uint32_t> chosen_rows(const CellInfo& cell, const EvaluationPlan& plan,
                                                     std::size_t batch, std::size_t head);

/// Evaluates the variants on all selected heads of one cell against the FP64 reference. Records come in the order of
/// the variants. Throws DataError where the cell is not sound (wrong shapes, NaN or infinity in Q, K or V).
[[nodiscard]] std::vector<Record> evaluate_cell(const CaptureReader& reader, const CellInfo& cell,
                                                const std::vector<NamedVariant>& variants, const EvaluationPlan& plan,
                                                const std::string& content_hash);

}  // namespace sage2
