#include "harness/run_writer.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace sage2 {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

[[noreturn]] void cannot_write(const fs::path& path, int error) {
  throw DataError(fmt::format("{}: cannot write: {}", path.string(), std::generic_category().message(error)));
}

/// Writes beside the target and renames, so that a reader never sees half a file.
void write_whole(const fs::path& path, const std::string& text) {
  const fs::path temporary = path.string() + ".new";
  {
    LineFile file(temporary);
    file.append(text);
  }
  std::error_code error;
  fs::rename(temporary, path, error);
  if (error) cannot_write(path, error.value());
}

/// Removes a last line that has no end: it was being written when the run was killed.
void drop_partial_line(const fs::path& path) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error || size == 0) return;
  std::ifstream in(path, std::ios::binary);
  std::uintmax_t keep = size;
  for (; keep > 0; --keep) {
    in.seekg(static_cast<std::streamoff>(keep - 1));
    if (in.get() == '\n') break;
  }
  if (keep != size) fs::resize_file(path, keep);
}

/// Rows of `more` that are not in `into` yet, behind the others.
void unite(std::vector<SuiteRow>& into, const std::vector<SuiteRow>& more) {
  for (const auto& row : more) {
    const auto same = [&](const SuiteRow& r) { return r.variant == row.variant && r.label == row.label; };
    if (std::none_of(into.begin(), into.end(), same)) into.push_back(row);
  }
}

void unite(std::vector<SuiteInfo>& into, const std::vector<SuiteInfo>& more) {
  for (const auto& suite : more) {
    const auto same = [&](const SuiteInfo& s) { return s.name == suite.name && s.title == suite.title; };
    if (std::none_of(into.begin(), into.end(), same)) into.push_back(suite);
  }
}

/// What makes the records of two runs incomparable, or "".
std::string difference(const RunInfo& old, const RunInfo& now) {
  const auto names = [](const RunInfo& info) {
    std::vector<std::string> all;
    for (const auto& c : info.captures) all.push_back(fmt::format("{} ({})", c.name, c.fingerprint));
    std::sort(all.begin(), all.end());
    return fmt::format("{}", fmt::join(all, ", "));
  };
  if (names(old) != names(now)) return fmt::format("its captures are {}, not {}", names(old), names(now));
  for (const char* key : {"heads", "queries"}) {
    const auto a = old.selection.value(key, json());
    const auto b = now.selection.value(key, json());
    if (a != b) return fmt::format("its {} are {}, not {}", key, a.dump(), b.dump());
  }
  if (old.seed != now.seed) return fmt::format("its seed is {}, not {}", old.seed, now.seed);
  return "";
}

}  // namespace

LineFile::LineFile(fs::path path) : path_(std::move(path)), file_(std::fopen(path_.c_str(), "ab")) {
  if (file_ == nullptr) cannot_write(path_, errno);
}

LineFile::~LineFile() {
  std::fclose(file_);
}

void LineFile::append(const std::string& line) {
  const std::string whole = line + '\n';
  if (std::fwrite(whole.data(), 1, whole.size(), file_) != whole.size() || std::fflush(file_) != 0) {
    cannot_write(path_, errno);
  }
}

RunWriter::RunWriter(const fs::path& folder, RunInfo info) : folder_(folder), info_(std::move(info)) {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error || !fs::is_directory(folder_)) cannot_write(folder_, error ? error.value() : ENOTDIR);
  const auto description = folder_ / "run.json";
  const auto records = folder_ / "records.jsonl";
  if (fs::exists(description)) {
    drop_partial_line(records);
    const auto old = for_each_record(folder_, [&](Record&& r) { keys_.insert(std::move(r.key)); });
    resumed_ = keys_.size();
    const auto why = difference(old, info_);
    if (!why.empty()) {
      throw UsageError(
          fmt::format("{}: this folder holds another run: {}; choose another --out", folder_.string(), why));
    }
    auto variants = old.variants;
    auto suites = old.suites;
    unite(variants, info_.variants);
    unite(suites, info_.suites);
    info_.variants = std::move(variants);
    info_.suites = std::move(suites);
  } else if (!fs::is_empty(folder_)) {
    throw UsageError(
        fmt::format("{}: this folder is not empty and holds no run; choose another --out", folder_.string()));
  }
  // Errors of cells are found anew by every attempt.
  fs::remove(folder_ / "errors.jsonl", error);
  write_whole(description, json(info_).dump(1));
  records_ = std::make_unique<LineFile>(records);
}

void RunWriter::add(const Record& record) {
  records_->append(json(record).dump());
  keys_.insert(record.key);
}

void RunWriter::add(const CellError& error) {
  if (!errors_) errors_ = std::make_unique<LineFile>(folder_ / "errors.jsonl");
  errors_->append(json(error).dump());
}

}  // namespace sage2
