#include "harness/plot_script.hpp"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "harness/shared_files.hpp"

namespace sage2 {
namespace {

namespace fs = std::filesystem;

/// Runs a program without a shell and waits for it; its exit status, 127 where it cannot be started.
int run_program(const std::vector<std::string>& words, bool quiet) {
  const pid_t child = fork();
  if (child < 0) return 127;
  if (child == 0) {
    if (quiet) {
      const int sink = open("/dev/null", O_WRONLY);
      if (sink >= 0) {
        dup2(sink, STDOUT_FILENO);
        dup2(sink, STDERR_FILENO);
      }
    }
    std::vector<char*> argv;
    for (const auto& w : words) argv.push_back(const_cast<char*>(w.c_str()));
    argv.push_back(nullptr);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child || !WIFEXITED(status)) return 127;
  return WEXITSTATUS(status);
}

/// An interpreter that has matplotlib; the first python3 on PATH may well lack it where the distribution's has it.
std::string find_interpreter() {
  std::vector<std::string> candidates{"python3", "/usr/bin/python3"};
  const char* chosen = std::getenv("PYTHON");  // NOLINT(concurrency-mt-unsafe): nothing here sets the environment
  if (chosen != nullptr && *chosen != '\0') candidates = {chosen};
  for (const auto& python : candidates) {
    if (run_program({python, "-c", "import matplotlib"}, true) == 0) return python;
  }
  return {};
}

}  // namespace

fs::path find_plot_script() {
  return find_shared_file("plot_report.py", "scripts/plot_report.py");
}

std::string draw_plots(const fs::path& numbers, const fs::path& folder, const std::vector<std::string>& endings) {
  const auto script = find_plot_script();
  if (script.empty()) return "no plots: plot_report.py is neither in share/sage2-eval nor in the source tree";
  const auto python = find_interpreter();
  if (python.empty()) {
    return "no plots: no Python with matplotlib was found (install python3-matplotlib or name an interpreter in "
           "PYTHON)";
  }
  const int status = run_program({python, script.string(), numbers.string(), folder.string(), "--format",
                                  fmt::format("{}", fmt::join(endings, ","))},
                                 false);
  return status == 0 ? "" : fmt::format("no plots: {} ended with status {}", script.string(), status);
}

}  // namespace sage2
