#pragma once

#include <chrono>
#include <cstddef>
#include <string>

namespace sage2 {

/// Progress with an estimate of the time left, on stderr: one line that is rewritten where stderr is a terminal, a
/// plain line every ten seconds otherwise.
class Progress {
 public:
  /// `things`: what is counted.
  explicit Progress(std::size_t total, std::string things = "cells");
  /// `done` of `total` are finished; `what` names the last one. `work` of these took time, the others were there
  /// before.
  void update(std::size_t done, std::size_t work, const std::string& what);
  /// Clears the line, so that other output can follow.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  std::size_t total_;
  std::string things_;
  bool terminal_;
  bool shown_ = false;
  Clock::time_point start_;
  Clock::time_point last_;
};

}  // namespace sage2
