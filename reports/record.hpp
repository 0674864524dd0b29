#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

/// Plain records: what an evaluation leaves behind and everything in this folder starts from. The JSON form is
/// documented in docs/formats.md.
namespace sage2 {

inline constexpr const char* kRecordSchema = "sage2-record/1";
inline constexpr const char* kRunSchema = "sage2-run/1";

/// Errors of one output against the FP64 reference O, over some set of elements. Definitions in docs/numerics.md.
struct ErrorMetrics {
  double cos_sim = 0;  ///< sum O O' / sqrt(sum O^2 sum O'^2)
  double rel_l1 = 0;   ///< sum |O - O'| / sum |O|
  double rmse = 0;     ///< sqrt(mean (O - O')^2)
  double max_abs = 0;  ///< max |O - O'|
  double p50 = 0, p90 = 0, p99 = 0, p999 = 0;  ///< percentiles of |O - O'|
  /// Standard errors over sampled query rows; present where only a subset was evaluated.
  std::optional<double> cos_sim_se, rel_l1_se, rmse_se;
};

/// The sums behind cos_sim, rel_l1 and rmse: records are pooled exactly by adding these.
struct ErrorSums {
  double ref_ref = 0;  ///< sum O^2
  double out_out = 0;  ///< sum O'^2
  double ref_out = 0;  ///< sum O O'
  double abs_err = 0;  ///< sum |O - O'|
  double abs_ref = 0;  ///< sum |O|
  double sq_err = 0;   ///< sum (O - O')^2
  double count = 0;    ///< number of elements
};

/// What happened to the numbers on the way.
struct EventCounts {
  std::uint64_t nan = 0;          ///< NaN in the output
  std::uint64_t inf = 0;          ///< infinity in the output
  std::uint64_t p_underflow = 0;  ///< visible entries of P that rounded to zero
  std::uint64_t p_total = 0;      ///< visible entries of P
  std::uint64_t saturated = 0;    ///< codes of Q, K, V and P that were clamped to their format's range
};

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
  std::string gpu, driver;  ///< "" where none was used
  std::string started;      ///< ISO 8601, UTC
  std::uint64_t seed = 0;   ///< of the query subset
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

/// As `read_run`, but hands over one record at a time, for runs larger than memory.
RunInfo for_each_record(const std::filesystem::path& folder, const std::function<void(Record&&)>& use,
                        bool* truncated = nullptr);

/// Pools records (cells, samples) that share a variant: adds the sums, then forms the three ratios.
void add(ErrorSums& into, const ErrorSums& more);
[[nodiscard]] ErrorMetrics ratios(const ErrorSums& sums);  ///< cos_sim, rel_l1, rmse; the rest is left at 0

}  // namespace sage2
