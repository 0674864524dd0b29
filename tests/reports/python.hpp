#pragma once

#include <array>
#include <cstdio>
#include <string>
#include <vector>

/// Runs other programs, for tests that check against what did not come from this code.
namespace sage2::test {

struct Outcome {
  int status = -1;
  std::string output;  ///< stdout and stderr
};

inline Outcome run(const std::vector<std::string>& words) {
  std::string command;
  for (const auto& word : words) {
    command += '\'';
    for (const char c : word) command += c == '\'' ? std::string("'\\''") : std::string(1, c);
    command += "' ";
  }
  Outcome outcome;
  FILE* pipe = popen((command + "2>&1").c_str(), "r");
  if (pipe == nullptr) return outcome;
  std::array<char, 4096> buffer{};
  for (std::size_t n = 0; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    outcome.output.append(buffer.data(), n);
  }
  outcome.status = pclose(pipe);
  return outcome;
}

/// A Python that can import the modules ("scipy", "json, h5py"), the system's or the one on PATH; "" where there is
/// none.
inline std::string python_with(const std::string& modules) {
  for (const std::string python : {"/usr/bin/python3", "python3"}) {
    if (run({python, "-c", "import " + modules}).status == 0) return python;
  }
  return "";
}

}  // namespace sage2::test
