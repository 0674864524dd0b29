#include "harness/progress.hpp"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <utility>

#include "fmt/format.h"

namespace sage2 {
namespace {

std::string duration(double seconds) {
  const long s = std::lround(seconds);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {} s", s / 60, s % 60);
  return fmt::format("{} h {} min", s / 3600, s % 3600 / 60);
}

}  // namespace

Progress::Progress(std::size_t total, std::string things)
    : total_(total),
      things_(std::move(things)),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(Clock::now()),
      last_(start_) {}

void Progress::update(std::size_t done, std::size_t work, const std::string& what) {
  const auto now = Clock::now();
  const auto quiet = std::chrono::seconds(terminal_ ? 0 : 10);
  if (now - last_ < quiet && done != total_) return;
  last_ = now;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  std::string line = fmt::format("{}/{} {}", done, total_, things_);
  if (work > 0 && done < total_) {
    line +=
        fmt::format(", {} left", duration(elapsed / static_cast<double>(work) * static_cast<double>(total_ - done)));
  } else {
    line += fmt::format(", {}", duration(elapsed));
  }
  line += fmt::format(" ({})", what);
  line = line.substr(0, 79);
  if (terminal_) {
    fmt::print(stderr, "\r\033[K{}", line);
  } else {
    fmt::print(stderr, "{}\n", line);
  }
  std::fflush(stderr);
  shown_ = terminal_;
}

void Progress::clear() {
  if (shown_) fmt::print(stderr, "\r\033[K");
  shown_ = false;
}

}  // namespace sage2
