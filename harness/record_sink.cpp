#include "harness/record_sink.hpp"

#include <cstdio>

#include "fmt/format.h"

namespace sage2 {

RecordSink::RecordSink(RunWriter& run, std::vector<std::string> names)
    : run_(run), names_(std::move(names)), progress_(names_.size()) {}

bool RecordSink::claim(const std::string& key) {
  const std::lock_guard lock(mutex_);
  return !run_.has(key) && claimed_.insert(key).second;
}

void RecordSink::done(std::size_t cell, std::vector<Record> records) {
  add(cell, {std::move(records), std::nullopt});
}

void RecordSink::failed(std::size_t cell, CellError error) {
  add(cell, {{}, std::move(error)});
}

void RecordSink::add(std::size_t cell, Cell what) {
  const std::lock_guard lock(mutex_);
  waiting_.emplace(cell, std::move(what));
  while (!waiting_.empty() && waiting_.begin()->first == next_) {
    const auto ready = std::move(waiting_.begin()->second);
    waiting_.erase(waiting_.begin());
    write(ready);
    ++next_;
    progress_.update(next_, worked_, names_[next_ - 1]);
  }
}

void RecordSink::write_all() {
  const std::lock_guard lock(mutex_);
  for (const auto& [cell, what] : waiting_) write(what);
  waiting_.clear();
}

void RecordSink::write(const Cell& cell) {
  if (broken_) return;
  broken_ = true;  // unless all of it gets there
  for (const auto& record : cell.records) run_.add(record);
  if (!cell.records.empty()) ++worked_;
  if (cell.error) {
    progress_.clear();
    fmt::print(stderr, "sage2-eval: {}; the cell is skipped\n", cell.error->message);
    run_.add(*cell.error);
    ++failures_;
  }
  broken_ = false;
}

bool RecordSink::broken() const {
  const std::lock_guard lock(mutex_);
  return broken_;
}

std::size_t RecordSink::failures() const {
  const std::lock_guard lock(mutex_);
  return failures_;
}

void RecordSink::finish() {
  const std::lock_guard lock(mutex_);
  progress_.clear();
}

}  // namespace sage2
