#include <fstream>
#include <istream>
#include <utility>
#include <vector>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "reports/head_scanner.hpp"
#include "reports/record.hpp"

namespace sage2 {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

/// Checks "name/version" against what this program writes; a newer version may mean something else.
void check_schema(const std::string& found, const std::string& expected, const std::string& where) {
  if (found == expected) return;
  const auto slash = expected.find('/');
  if (found.substr(0, slash) != expected.substr(0, slash)) {
    throw DataError(fmt::format("{}: expected schema \"{}\", found \"{}\"", where, expected, found));
  }
  throw DataError(
      fmt::format("{}: schema \"{}\" is newer than this program, which reads \"{}\"", where, found, expected));
}

RunInfo read_info(const fs::path& folder) {
  const auto file = folder / "run.json";
  std::ifstream in(file);
  if (!in) throw DataError(fmt::format("{}: not a run folder: it has no run.json", folder.string()));
  try {
    const auto j = json::parse(in);
    check_schema(j.at("schema").get<std::string>(), kRunSchema, file.string());
    return j.get<RunInfo>();
  } catch (const json::exception& e) {
    throw DataError(fmt::format("{}: not a run description: {}", file.string(), e.what()));
  }
}

/// A line with its number, for messages.
struct Line {
  std::string text;
  std::size_t number = 0;
};

/// Lines are parsed in batches, the lines of a batch by all threads: parsing JSON takes most of the time of a report.
constexpr std::size_t kBatchBytes = std::size_t{8} << 20U;

/// Reads the next whole lines. A line without an end was being written when the run was killed: it is left out and
/// `truncated` is set.
std::vector<Line> next_batch(std::istream& in, std::size_t& number, bool& truncated) {
  std::vector<Line> batch;
  std::size_t bytes = 0;
  for (std::string text; bytes < kBatchBytes && std::getline(in, text);) {
    ++number;
    if (in.eof()) {
      truncated = true;
      break;
    }
    if (text.empty()) continue;
    bytes += text.size();
    batch.push_back({std::move(text), number});
  }
  return batch;
}

/// Calls `use(parse(text, line number))` for every whole line, `use` in the order of the file. Returns whether the last
/// line was cut off. `parse` runs on several threads.
template <class Parse, class Use>
bool for_each_line(const fs::path& file, const Parse& parse, const Use& use) {
  std::ifstream in(file);
  std::size_t number = 0;
  bool truncated = false;
  for (auto batch = next_batch(in, number, truncated); !batch.empty(); batch = next_batch(in, number, truncated)) {
    std::vector<decltype(parse(std::string(), number))> parsed(batch.size());
    std::vector<std::string> failures(batch.size());  // exceptions must not leave a parallel region
#pragma omp parallel for schedule(dynamic, 16)
    for (std::size_t i = 0; i < batch.size(); ++i) {
      try {
        parsed[i] = parse(batch[i].text, batch[i].number);
      } catch (const json::exception& e) {
        failures[i] = fmt::format("{}, line {}: not a record: {}", file.string(), batch[i].number, e.what());
      } catch (const DataError& e) {
        failures[i] = e.what();
      }
    }
    for (std::size_t i = 0; i < batch.size(); ++i) {
      if (!failures[i].empty()) throw DataError(failures[i]);
      use(std::move(parsed[i]));
    }
  }
  return truncated;
}

}  // namespace

RunInfo for_each_record(const fs::path& folder, const std::function<void(Record&&)>& use, bool* truncated) {
  auto info = read_info(folder);
  const auto file = folder / "records.jsonl";
  const auto parse = [&](const std::string& text, std::size_t number) {
    auto split = split_heads(text);
    auto j = json::parse(split ? split->rest : text);
    if (split && !(j.contains("heads") && j["heads"].empty())) {  // they belonged to something else
      split.reset();
      j = json::parse(text);
    }
    check_schema(j.at("schema").get<std::string>(), kRecordSchema, fmt::format("{}, line {}", file.string(), number));
    auto record = j.get<Record>();
    if (split) record.heads = std::move(split->heads);
    return record;
  };
  const bool cut = for_each_line(file, parse, use);
  if (truncated != nullptr) *truncated = cut;
  return info;
}

std::vector<CellError> read_errors(const fs::path& folder) {
  std::vector<CellError> errors;
  for_each_line(
      folder / "errors.jsonl", [](const std::string& text, std::size_t) { return json::parse(text).get<CellError>(); },
      [&](CellError&& e) { errors.push_back(std::move(e)); });
  return errors;
}

Run read_run(const fs::path& folder) {
  Run run;
  run.folder = folder;
  run.info = for_each_record(
      folder, [&](Record&& r) { run.records.push_back(std::move(r)); }, &run.truncated);
  run.errors = read_errors(folder);
  return run;
}

}  // namespace sage2
