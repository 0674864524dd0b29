#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "datasets/capture.hpp"

/// Writer of capture files, schema "sage2-capture" version 1 (docs/capture.md).
namespace sage2 {

struct WriterOptions {
  std::string model;
  std::string source;
  int gzip = 0;  ///< 0 none (the fastest to read), else gzip level 1 to 9 behind a byte shuffle
};

/// Streams one head at a time; never holds more. Writes to a temporary name beside the target and renames on finish,
/// so that a file of that name is always whole; an unfinished writer leaves nothing behind.
class CaptureWriter {
 public:
  /// Throws DataError where the file cannot be created.
  CaptureWriter(const std::filesystem::path& file, const WriterOptions& options);
  ~CaptureWriter();
  CaptureWriter(CaptureWriter&&) noexcept;
  CaptureWriter& operator=(CaptureWriter&&) noexcept;

  /// Creates the datasets of one cell, all in format `cell.dtype`; `paths`, `dtypes` and `output_path` are not looked
  /// at. Throws DataError where the cell exists or the disk is full, UsageError where the cell before is incomplete.
  void begin_cell(const CellInfo& cell);

  /// Writes one head [length, head_dim] of the current cell, rounded to its format. Each head is written once, in any
  /// order. Throws DataError where the disk is full, UsageError where the matrix does not fit the cell.
  void write_head(TensorName name, std::size_t batch, std::size_t head, const Matrix& values);

  /// Completes the file and gives it its name. Throws as above.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sage2
