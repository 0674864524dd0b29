#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "harness/progress.hpp"
#include "harness/run_writer.hpp"

/// Where finished cells go, whichever thread finishes them.
namespace sage2 {

/// Writes records and errors in the order of the cells, whatever the order in which they come: a cell waits until all
/// cells before it are there. Shows progress. Every function may be called by any thread.
class RecordSink {
 public:
  /// `names` of all cells, for the progress line.
  RecordSink(RunWriter& run, std::vector<std::string> names);

  /// Whether a record is still wanted: not in the run folder and not claimed before. Claims it.
  [[nodiscard]] bool claim(const std::string& key);

  /// A cell is finished, with records (none where nothing was missing) or with what is wrong with it. Throws DataError
  /// where the run folder cannot be written; nothing is written from then on.
  void done(std::size_t cell, std::vector<Record> records);
  void failed(std::size_t cell, CellError error);

  /// Writes what is finished though cells before it are not: the run ends here.
  void write_all();

  [[nodiscard]] bool broken() const;           ///< writing failed
  [[nodiscard]] std::size_t failures() const;  ///< cells with errors
  void finish();                               ///< clears the progress line

 private:
  struct Cell {
    std::vector<Record> records;
    std::optional<CellError> error;
  };
  void add(std::size_t cell, Cell what);
  void write(const Cell& cell);

  mutable std::mutex mutex_;
  RunWriter& run_;
  std::vector<std::string> names_;
  Progress progress_;
  std::unordered_set<std::string> claimed_;
  std::map<std::size_t, Cell> waiting_;  ///< finished, but not those before
  std::size_t next_ = 0;                 ///< the first cell that is not written
  std::size_t worked_ = 0;
  std::size_t failures_ = 0;
  bool broken_ = false;
};

}  // namespace sage2
