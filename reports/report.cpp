#include "reports/report.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {
namespace {

/// Two files of one name with different contents would silently become samples of each other.
void check_captures(const std::vector<RunInfo>& runs) {
  std::map<std::string, std::string> fingerprints;
  for (const auto& run : runs) {
    for (const auto& c : run.captures) {
      if (c.fingerprint.empty()) continue;
      const auto [known, added] = fingerprints.emplace(c.name, c.fingerprint);
      if (!added && known->second != c.fingerprint) {
        throw DataError(fmt::format(
            "the runs hold two different captures called {} (fingerprints {} and {}): rename one of them or report "
            "them apart",
            c.name, known->second, c.fingerprint));
      }
    }
  }
}

/// Rows of all runs, each variant and label once.
void merge_rows(std::vector<SuiteRow>& into, const std::vector<SuiteRow>& more) {
  for (const auto& row : more) {
    const bool known = std::any_of(into.begin(), into.end(),
                                   [&](const SuiteRow& r) { return r.label == row.label && r.variant == row.variant; });
    if (!known) into.push_back(row);
  }
}

void merge_suites(std::vector<SuiteInfo>& into, const std::vector<SuiteInfo>& more) {
  for (const auto& suite : more) {
    const auto known = std::find_if(into.begin(), into.end(),
                                    [&](const SuiteInfo& s) { return s.name == suite.name && s.title == suite.title; });
    if (known == into.end()) {
      into.push_back(suite);
    } else {
      merge_rows(known->rows, suite.rows);
    }
  }
}

/// One row a variant: the first label wins, variants that no run.json lists follow under their own name.
std::vector<SuiteRow> unique_variants(const std::vector<SuiteRow>& rows, const std::vector<ModelCells>& models) {
  std::vector<SuiteRow> unique;
  std::set<std::string> seen;
  for (const auto& row : rows) {
    if (seen.insert(row.variant).second) unique.push_back(row);
  }
  for (const auto& model : models) {
    for (const auto& v : model.variants) {
      if (seen.insert(v.variant).second) unique.push_back({v.name.empty() ? v.variant : v.name, v.variant});
    }
  }
  return unique;
}

std::string known_variants(const Report& report) {
  std::string text;
  for (const auto& row : report.variants) text += fmt::format("{}{}", text.empty() ? "" : ", ", row.label);
  return text;
}

/// Keeps the chosen variants, in the rows' order.
void select_variants(Report& report, const std::vector<std::string>& chosen) {
  if (chosen.empty()) return;
  std::set<std::string> keep;
  for (const auto& text : chosen) keep.insert(resolve_variant(report, text));
  const auto drop = [&](const auto& item) { return !keep.contains(item.variant); };
  std::erase_if(report.variants, drop);
  for (auto& suite : report.suites) std::erase_if(suite.rows, drop);
  std::erase_if(report.suites, [](const SuiteInfo& s) { return s.rows.empty(); });
  for (auto& model : report.models) std::erase_if(model.variants, drop);
  std::erase_if(report.models, [](const ModelCells& m) { return m.variants.empty(); });
}

}  // namespace

Report load_report(const std::vector<std::filesystem::path>& folders, const ReportSelection& selection) {
  Report report;
  CellCollector collector;
  std::set<int> layers_found;
  std::vector<SuiteRow> rows;
  for (std::size_t i = 0; i < folders.size(); ++i) {
    bool truncated = false;
    report.runs.push_back(for_each_record(
        folders[i],
        [&](Record&& r) {
          layers_found.insert(r.layer);
          if (!selection.layer || selection.layer(r.layer)) collector.add(std::move(r));
        },
        &truncated));
    auto errors = read_errors(folders[i]);
    report.errors.insert(report.errors.end(), std::make_move_iterator(errors.begin()),
                         std::make_move_iterator(errors.end()));
    if (truncated) {
      report.remarks.push_back(
          fmt::format("Run {}: the last line of records.jsonl is cut off (the run was stopped while writing); it is "
                      "left out. Start the run again to complete it.",
                      i + 1));
    }
    merge_rows(rows, report.runs.back().variants);
    merge_suites(report.suites, report.runs.back().suites);
  }
  check_captures(report.runs);
  if (layers_found.empty()) {
    throw DataError(fmt::format("{}: holds no records", folders.empty() ? "" : folders.front().string()));
  }
  if (collector.records() == 0) {
    throw UsageError(fmt::format("--layers: none of the layers {} to {} is selected", *layers_found.begin(),
                                 *layers_found.rbegin()));
  }
  if (collector.duplicates() > 0) {
    report.remarks.push_back(
        fmt::format("{} records stand for a sample and variant that another record covers; they are left out.",
                    collector.duplicates()));
  }
  report.models = collector.finish();
  report.variants = unique_variants(rows, report.models);
  if (!report.errors.empty()) {
    report.remarks.push_back(fmt::format("{} samples could not be evaluated; the first: {}, layer {}, timestep {}: {}",
                                         report.errors.size(), report.errors.front().capture,
                                         report.errors.front().layer, report.errors.front().timestep,
                                         report.errors.front().message));
  }
  select_variants(report, selection.variants);
  return report;
}

std::string resolve_variant(const Report& report, const std::string& text) {
  for (const auto& model : report.models) {
    for (const auto& v : model.variants) {
      if (v.variant == text || v.name == text) return v.variant;
    }
  }
  std::set<std::string> found;
  for (const auto& row : report.variants) {
    if (row.label == text) found.insert(row.variant);
  }
  for (const auto& suite : report.suites) {
    for (const auto& row : suite.rows) {
      if (row.label == text) found.insert(row.variant);
    }
  }
  if (found.size() == 1) return *found.begin();
  if (found.size() > 1) {
    throw UsageError(
        fmt::format("\"{}\" is a row of several suites; write the variant, such as {}", text, *found.begin()));
  }
  throw UsageError(fmt::format("no records of a variant \"{}\"; there are {}", text, known_variants(report)));
}

std::string label_of(const Report& report, const std::string& variant) {
  for (const auto& row : report.variants) {
    if (row.variant == variant) return row.label;
  }
  return variant;
}

}  // namespace sage2
