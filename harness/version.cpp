#include "harness/version.hpp"

#include <omp.h>

#include <chrono>
#include <fstream>

#include "build_info.hpp"
#include "fmt/chrono.h"
#include "fmt/format.h"

namespace sage2 {
namespace {

std::string cpu_model() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const auto colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace

std::string version_line() {
  return fmt::format("sage2-eval {} (commit {}{}, {}, {}, {})", build_info::kVersion, build_info::kCommit,
                     build_info::kDirty ? ", modified" : "", build_info::kCompiler, build_info::kBuildType,
                     build_info::kOptions);
}

std::vector<std::string> command_line() {
  std::ifstream in("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(in, word, '\0');) words.push_back(word);
  return words;
}

RunInfo machine_info() {
  RunInfo info;
  info.version = build_info::kVersion;
  info.commit = build_info::kCommit;
  info.dirty = build_info::kDirty;
  info.compiler = build_info::kCompiler;
  info.options = fmt::format("{}, {}", build_info::kBuildType, build_info::kOptions);
  info.cpu = cpu_model();
  info.threads = omp_get_max_threads();
  const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  info.started = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(now));
  return info;
}

}  // namespace sage2
