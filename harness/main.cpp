#include <cstdio>
#include <exception>

#include "datasets/error.hpp"
#include "fmt/core.h"
#include "harness/command.hpp"
#include "harness/version.hpp"

namespace {

int run(int argc, char** argv) {
  CLI::App app{"sage2-eval: accuracy and speed laboratory for 4-bit attention", "sage2-eval"};
  app.set_version_flag("--version", sage2::version_line());
  app.require_subcommand(1);
  app.fallthrough(false);
  sage2::Action action;
  sage2::setup_inspect(app, action);
  sage2::setup_synth(app, action);
  sage2::setup_eval(app, action);
  sage2::setup_merge(app, action);
  sage2::setup_rank(app, action);
  sage2::setup_report(app, action);
  sage2::setup_compare(app, action);
  sage2::setup_verify(app, action);
  sage2::setup_bench(app, action);
  sage2::setup_variants(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? static_cast<int>(sage2::ExitCode::ok) : static_cast<int>(sage2::ExitCode::usage);
  }
  return action();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const sage2::Error& e) {
    fmt::print(stderr, "sage2-eval: {}\n", e.what());
    return static_cast<int>(e.code());
  } catch (const std::exception& e) {
    fmt::print(stderr, "sage2-eval: {}\n", e.what());
    return static_cast<int>(sage2::ExitCode::bad_data);
  }
}
