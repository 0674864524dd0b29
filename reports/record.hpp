#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "reports/error_metrics.hpp"

/// Plain records: what an evaluation leaves behind and everything in this folder starts from. The JSON form is
/// documented in docs/formats.md.
namespace sage2 {

inline constexpr const char* kRecordSchema = "sage2-record/1";
inline constexpr const char* kRunSchema = "sage2-run/1";

struct HeadRecord {
  int batch = 0;
  int head = 0;
  ErrorMetrics metrics;
};

struct RecordShape {
  std::int64_t batch = 0, q_heads = 0, kv_heads = 0, q_len = 0, kv_len = 0, head_dim = 0;
  bool is_causal = false;
  double sm_scale = 0;
};

/// Which query rows were evaluated, where not all were.
struct QuerySubset {
  std::int64_t count = 0;
  std::uint64_t seed = 0;
};

/// One (capture, layer, timestep, sample, variant).
struct Record {
  std::string key;      ///< hash of content and variant; never of machine, rank or order
  std::string capture;  ///< file name without its folder
  std::string model;
  int layer = 0;
  std::string layer_name;
  int timestep = 0;
  double timestep_value = 0;
  int sample = 0;
  std::optional<std::string> sample_name, cfg_branch;
  std::string variant;  ///< canonical spelling
  std::string name;     ///< how it was asked for
  std::string device;   ///< "cpu" or "cuda"
  std::string engine;   ///< "emulated" or "native"
  RecordShape shape;
  std::vector<int> heads_selected;  ///< empty: all query heads
  std::optional<QuerySubset> queries;
  ErrorMetrics metrics;
  ErrorSums sums;
  EventCounts counts;
  std::vector<HeadRecord> heads;
  double seconds = 0;

  [[nodiscard]] std::uint64_t nonfinite() const { return counts.nan + counts.inf; }
};

void to_json(nlohmann::json& j, const Record& r);
void from_json(const nlohmann::json& j, Record& r);

/// One row of a suite: a published table names it so.
struct SuiteRow {
  std::string label;
  std::string variant;  ///< canonical spelling
};

void to_json(nlohmann::json& j, const SuiteRow& row);
void from_json(const nlohmann::json& j, SuiteRow& row);

struct SuiteInfo {
  std::string name;   ///< "smoothing", "granularity", ...
  std::string title;  ///< one line for the head of the table
  std::vector<SuiteRow> rows;
};

void to_json(nlohmann::json& j, const SuiteInfo& s);
void from_json(const nlohmann::json& j, SuiteInfo& s);

struct CaptureInfo {
  std::string name, path, fingerprint, model, source;
  std::uint64_t bytes = 0;
};

void to_json(nlohmann::json& j, const CaptureInfo& c);
void from_json(const nlohmann::json& j, CaptureInfo& c);

/// RUN/run.json: where the records come from.
struct RunInfo {
  std::vector<std::string> command;
  std::string version, commit;
  bool dirty = false;
  std::string compiler, options;
  std::string cpu;
  int threads = 0;
  std::string gpu, compute_capability, driver;  ///< "" where none was used
  std::string started;                          ///< ISO 8601, UTC
  std::uint64_t seed = 0;                       ///< of the query subset
  std::vector<CaptureInfo> captures;
  std::vector<SuiteRow> variants;  ///< label and canonical spelling of everything asked for, in order
  std::vector<SuiteInfo> suites;   ///< the suites asked for
  nlohmann::json selection;        ///< layers, timesteps, samples, heads, queries: what the run was limited to
};

void to_json(nlohmann::json& j, const RunInfo& r);
void from_json(const nlohmann::json& j, RunInfo& r);

/// A cell that could not be evaluated (RUN/errors.jsonl).
struct CellError {
  std::string capture;
  int layer = 0, timestep = 0, sample = 0;
  std::string message;
};
void to_json(nlohmann::json& j, const CellError& e);
void from_json(const nlohmann::json& j, CellError& e);

/// Everything in one run folder.
struct Run {
  std::filesystem::path folder;
  RunInfo info;
  std::vector<Record> records;
  std::vector<CellError> errors;
  /// True where the last line of records.jsonl had no end (the run was killed while writing); it is left out.
  bool truncated = false;
};

/// Reads RUN/run.json, records.jsonl and errors.jsonl. Throws DataError where the folder is no run, a line is not a
/// record (file and line number are named) or the schema is newer than this program.
[[nodiscard]] Run read_run(const std::filesystem::path& folder);

/// RUN/errors.jsonl alone: the cells that could not be evaluated; none where there is no such file.
[[nodiscard]] std::vector<CellError> read_errors(const std::filesystem::path& folder);

/// As `read_run`, but hands over one record at a time, in the order of the file, for runs larger than memory.
RunInfo for_each_record(const std::filesystem::path& folder, const std::function<void(Record&&)>& use,
                        bool* truncated = nullptr);

}  // namespace sage2
