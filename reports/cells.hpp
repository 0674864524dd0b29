#pragma once

#include <cstddef>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "reports/record.hpp"

/// Records pooled into cells: every (layer, timestep) with its samples, each holding all variants asked for. What an
/// adaptive map is made from.
namespace sage2 {

/// A variant as records know it.
struct VariantId {
  std::string variant;  ///< canonical spelling
  std::string name;     ///< as it was asked for, which is what maps and tables show
};

/// What one record says about one (cell, sample, variant).
struct Observation {
  double cos_sim = 0, rel_l1 = 0, rmse = 0, max_abs = 0;
  double sq_err = 0;  ///< sum (O - O')^2
};

/// One (layer, timestep). All vectors over samples have the same order.
struct Cell {
  int layer = 0;
  int timestep = 0;
  std::string layer_name;
  double timestep_value = 0;
  std::vector<std::size_t> units;         ///< per sample, the independent draw it belongs to: 0 .. CellTable::units - 1
  std::vector<RecordShape> shapes;        ///< per sample
  std::vector<Observation> observations;  ///< [sample][variant]

  [[nodiscard]] std::size_t samples() const { return units.size(); }
};

/// Cells in ascending order of layer, then timestep.
struct CellTable {
  std::string model;
  std::vector<VariantId> variants;
  std::vector<Cell> cells;
  /// Independent draws (prompts). The CFG branches of one named sample are one draw, so that neither a hold-out nor a
  /// bootstrap tears them apart.
  std::size_t units = 0;
  std::size_t duplicates = 0;        ///< records that were there before and are counted once
  bool lengths_differ = false;       ///< samples of one cell have different batch, q_len or kv_len
  std::vector<std::string> devices;  ///< "cpu (emulated)", ... in order of appearance

  [[nodiscard]] const Observation& at(std::size_t cell, std::size_t sample, std::size_t variant) const {
    return cells[cell].observations[sample * variants.size() + variant];
  }
};

/// "layer 2, timestep 24".
[[nodiscard]] std::string to_string(const Cell& cell);

/// Finds the variant that `text` means, by canonical spelling or by the name it was asked for. Throws UsageError with
/// the list of what the runs hold where there is none, DataError where a name means two variants.
[[nodiscard]] VariantId find_variant(std::span<const Run> runs, const std::string& text);

/// Pools the records of `variants` from several runs and captures. A record that is there twice (same cell, same key)
/// counts once. Captures that share no (cell, sample) are parts of one: their sample 0 is the same draw; captures that
/// do share one hold different draws. Throws DataError where models, layer names, heads, head dims or masks do not
/// match, where a sample lacks one of the variants, where variants were evaluated on different heads or query rows,
/// and where a metric is not a finite number.
[[nodiscard]] CellTable pool_cells(std::span<const Run> runs, const std::vector<VariantId>& variants);

/// The part of a table whose units are marked in `keep`, renumbered. Throws DataError where a cell loses all its
/// samples.
[[nodiscard]] CellTable select_units(const CellTable& table, const std::vector<bool>& keep);

/// One number per (cell, sample, variant), in the order of the table.
struct SampleGrid {
  std::size_t variants = 0;
  std::vector<double> values;
};

/// Of all variants, or of the first `variants` only.
[[nodiscard]] SampleGrid evaluate(const CellTable& table, const std::function<double(const Observation&)>& value,
                                  std::size_t variants = std::numeric_limits<std::size_t>::max());

/// One number per (cell, variant).
struct CellGrid {
  std::size_t variants = 0;
  std::vector<double> values;  ///< [cell][variant]

  [[nodiscard]] double at(std::size_t cell, std::size_t variant) const { return values[cell * variants + variant]; }
  [[nodiscard]] std::size_t cells() const { return values.size() / variants; }
  /// One variant, a value a cell.
  [[nodiscard]] std::vector<double> column(std::size_t variant) const;
};

/// Mean over the samples of each cell. `weights` has one entry per unit (empty: all 1), counts of a bootstrap
/// replicate; a cell none of whose samples were drawn keeps its plain mean.
[[nodiscard]] CellGrid mean_over_samples(const CellTable& table, const SampleGrid& values,
                                         std::span<const double> weights = {});

}  // namespace sage2
