#include <memory>

#include "datasets/error.hpp"
#include "harness/bench.hpp"
#include "harness/command.hpp"

namespace sage2 {

#ifndef SAGE2_HAS_BENCH
int run_bench(const BenchOptions&) {
  throw DeviceError("bench: this build has no CUDA engine or no Google Benchmark, so it has nothing to time");
}
#endif

void setup_bench(CLI::App& app, Action& action) {
  auto options = std::make_shared<BenchOptions>();
  BenchOptions& o = *options;
  auto* sub = app.add_subcommand("bench", "Time the attention kernels of this GPU, alone and with all preparation");
  sub->add_option("--out", o.out, "Write the times here (JSON), for rank --bench and report --bench");
  sub->add_flag("--json", o.json, "Print the same JSON instead of tables");
  sub->add_option("--samples", o.samples, "Cold calls timed for each benchmark")
      ->check(CLI::Range(20, 100000))
      ->capture_default_str();
  sub->allow_extras();
  sub->footer(
      "Everything else goes to Google Benchmark: --benchmark_list_tests, --benchmark_filter=REGEX,\n"
      "--benchmark_repetitions=N, --benchmark_out=FILE, ... Names are attention/VARIANT/d:../causal:../n:../PART and\n"
      "overhead/TECHNIQUE/d:../n:../PART, where PART is whole or kernel.");
  sub->callback([options, sub, &action] {
    options->google_flags = sub->remaining();
    action = [options] { return run_bench(*options); };
  });
}

}  // namespace sage2
