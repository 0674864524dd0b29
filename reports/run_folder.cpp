#include <fstream>

#include "datasets/error.hpp"
#include "fmt/format.h"
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

/// Calls `use` for every whole line. A line without an end was being written when the run was killed: it is skipped,
/// and true is returned.
template <class Use>
bool for_each_line(const fs::path& file, const Use& use) {
  std::ifstream in(file);
  std::string line;
  for (std::size_t number = 1; std::getline(in, line); ++number) {
    if (in.eof()) return true;
    if (line.empty()) continue;
    try {
      use(json::parse(line), number);
    } catch (const json::exception& e) {
      throw DataError(fmt::format("{}, line {}: not a record: {}", file.string(), number, e.what()));
    }
  }
  return false;
}

}  // namespace

RunInfo for_each_record(const fs::path& folder, const std::function<void(Record&&)>& use, bool* truncated) {
  auto info = read_info(folder);
  const auto file = folder / "records.jsonl";
  const bool cut = for_each_line(file, [&](const json& j, std::size_t number) {
    check_schema(j.at("schema").get<std::string>(), kRecordSchema, fmt::format("{}, line {}", file.string(), number));
    use(j.get<Record>());
  });
  if (truncated != nullptr) *truncated = cut;
  return info;
}

Run read_run(const fs::path& folder) {
  Run run;
  run.folder = folder;
  run.info = for_each_record(
      folder, [&](Record&& r) { run.records.push_back(std::move(r)); }, &run.truncated);
  for_each_line(folder / "errors.jsonl", [&](const json& j, std::size_t) { run.errors.push_back(j.get<CellError>()); });
  return run;
}

}  // namespace sage2
