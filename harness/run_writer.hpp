#pragma once

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <unordered_set>

#include "reports/record.hpp"

/// Writes a run folder so that nothing finished is lost.
namespace sage2 {

/// Appends whole lines to a file and flushes each, so that a kill can cost at most the line being written. Throws
/// DataError naming file and cause (disk full, no permission) where a write fails.
class LineFile {
 public:
  explicit LineFile(std::filesystem::path path);
  ~LineFile();
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;
  LineFile(LineFile&&) = delete;
  LineFile& operator=(LineFile&&) = delete;
  void append(const std::string& line);

 private:
  std::filesystem::path path_;
  std::FILE* file_;
};

class RunWriter {
 public:
  /// Creates the folder, or opens one that the same run left behind: the same captures (by fingerprint), heads and
  /// query rows. More variants, suites, layers, timesteps and samples may be asked for than before. Throws UsageError
  /// naming what differs where the folder belongs to another run, DataError where it cannot be written.
  RunWriter(const std::filesystem::path& folder, RunInfo info);

  /// Keys of the records that are there already.
  [[nodiscard]] bool has(const std::string& key) const { return keys_.contains(key); }
  [[nodiscard]] std::size_t resumed() const { return resumed_; }
  [[nodiscard]] const RunInfo& info() const { return info_; }

  void add(const Record& record);
  void add(const CellError& error);

 private:
  std::filesystem::path folder_;
  RunInfo info_;
  std::unordered_set<std::string> keys_;
  std::size_t resumed_ = 0;
  std::unique_ptr<LineFile> records_;
  std::unique_ptr<LineFile> errors_;
};

}  // namespace sage2
