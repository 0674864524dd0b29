#pragma once

#include <stdexcept>
#include <string>

/// Errors carry one sentence for the user and the exit code they end a command with. Libraries throw; only `main`
/// turns an error into an exit code. This header depends on nothing, so that `reports` may use it as well.
namespace sage2 {

enum class ExitCode : int { ok = 0, check_failed = 1, usage = 2, bad_data = 3, device = 4 };

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& what) : std::runtime_error(what), code_(code) {}
  [[nodiscard]] ExitCode code() const noexcept { return code_; }

 private:
  ExitCode code_;
};

/// The command line asks for something that does not exist or makes no sense.
struct UsageError : Error {
  explicit UsageError(const std::string& what) : Error(ExitCode::usage, what) {}
};

/// A file is not what it should be: says which file, which dataset, what was expected, what was found.
struct DataError : Error {
  explicit DataError(const std::string& what) : Error(ExitCode::bad_data, what) {}
};

/// No usable device, or not enough of it.
struct DeviceError : Error {
  explicit DeviceError(const std::string& what) : Error(ExitCode::device, what) {}
};

}  // namespace sage2
