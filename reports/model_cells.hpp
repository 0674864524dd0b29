#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "reports/error_metrics.hpp"
#include "reports/record.hpp"

/// Records gathered into cells. Everything that is shown (tables, plots, pages, comparisons) starts from these.
namespace sage2 {

/// One sample of a cell: one record.
struct SampleCell {
  std::string capture;
  int sample = 0;
  std::string key;  ///< of the record
  ErrorSums sums;
  ErrorMetrics metrics;
  EventCounts counts;
  double seconds = 0;
  std::vector<HeadRecord> heads;
};

/// One query head of a cell: mean of cos_sim, rel_l1 and percentiles, root mean square of rmse and maximum of max_abs
/// over samples and batch entries.
struct HeadCell {
  int head = 0;
  ErrorMetrics metrics;
};

/// One (layer, timestep) under one variant. cos_sim, rel_l1 and rmse are those of all samples pooled (by adding sums,
/// hence exact), max_abs is the maximum over samples; percentiles are the samples' mean weighted by element count,
/// which is exact for one sample.
struct CellStats {
  int layer = 0;
  int timestep = 0;
  std::string layer_name;
  double timestep_value = 0;
  ErrorSums sums;
  ErrorMetrics metrics;
  EventCounts counts;
  double seconds = 0;
  RecordShape shape;                ///< of the first sample
  std::vector<SampleCell> samples;  ///< ordered by capture, then sample
  std::vector<HeadCell> heads;      ///< ordered by head
};

struct VariantCells {
  std::string variant;           ///< canonical spelling
  std::string name;              ///< as it was asked for
  std::vector<CellStats> cells;  ///< ordered by layer, then timestep
};

/// All records of one model. Captures that name the same model are samples of one experiment and share their cells;
/// captures that name no model stand for themselves. Nothing is ever pooled across models.
struct ModelCells {
  std::string title;  ///< the model, or the capture's file name where it names none
  std::string slug;   ///< for file names: lower-case letters, digits and dashes, unique in a report
  std::string model;
  std::vector<std::string> captures;   ///< file names, sorted
  std::vector<VariantCells> variants;  ///< ordered by canonical spelling

  /// The cells of a variant, nullptr where it has no records.
  [[nodiscard]] const VariantCells* find(const std::string& variant) const;
};

/// Takes records in any order and gathers them into cells; the result does not depend on the order. A record that was
/// already taken (two runs may share some) counts once; of two records of the same sample with different keys the one
/// over more elements is kept.
class CellCollector {
 public:
  void add(Record&& record);
  /// Records left out because another one stands for the same sample and variant.
  [[nodiscard]] std::size_t duplicates() const { return duplicates_; }
  [[nodiscard]] std::size_t records() const { return records_; }
  /// Pools samples and heads. Ends the collection.
  [[nodiscard]] std::vector<ModelCells> finish();

 private:
  struct VariantPart {
    std::string name;
    std::map<std::pair<int, int>, CellStats> cells;
  };
  struct ModelPart {
    std::string model;
    std::map<std::string, VariantPart> variants;
    std::vector<std::string> captures;
  };
  std::map<std::string, ModelPart> models_;
  std::size_t duplicates_ = 0;
  std::size_t records_ = 0;
};

/// Convenience for records in memory.
[[nodiscard]] std::vector<ModelCells> collect_cells(const std::vector<Record>& records);

/// "layer 2 (blocks.2.attn), timestep 12"; `one_step` leaves the timestep out where the model has none.
[[nodiscard]] std::string long_name(const CellStats& cell, bool one_step = false);
/// "L2 T12".
[[nodiscard]] std::string short_name(const CellStats& cell, bool one_step = false);
/// True where all cells of the model have the same timestep.
[[nodiscard]] bool has_one_step(const ModelCells& model);

/// Lower-case letters, digits and single dashes: "DiT, 64x64" becomes "dit-64x64". Never empty.
[[nodiscard]] std::string slug_of(const std::string& text);

/// Linear interpolation between order statistics (NumPy's default), q in [0, 1]. NaN where `sorted` is empty.
[[nodiscard]] double quantile(const std::vector<double>& sorted, double q);

}  // namespace sage2
