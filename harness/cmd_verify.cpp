#include <algorithm>
#include <cstdio>
#include <memory>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "harness/capture_flags.hpp"
#include "harness/command.hpp"
#include "harness/progress.hpp"
#include "harness/shared_files.hpp"
#include "harness/verify.hpp"
#ifdef SAGE2_HAS_CUDA
#include "harness/cuda_verify.hpp"
#endif

namespace sage2 {
namespace {

struct VerifyOptions {
  std::vector<std::string> captures;
  std::vector<std::string> variants;
  bool quick = false, tiny = false, json = false;
  std::uint64_t accumulators = 1000000;
  std::uint64_t seed = 0;
  ReaderFlags reader;
};

#ifdef SAGE2_HAS_CUDA

/// Those named, or else the bundled ones where they are found; none in the tiny mode.
std::vector<std::filesystem::path> captures_of(const VerifyOptions& options) {
  std::vector<std::filesystem::path> files(options.captures.begin(), options.captures.end());
  if (!files.empty() || options.tiny) return files;
  for (const std::string name : {"dit.h5", "lm.h5"}) {
    auto file = find_shared_file("samples/" + name, "datasets/samples/" + name);
    if (!file.empty()) files.push_back(std::move(file));
  }
  return files;
}

VerifySettings settings_of(const VerifyOptions& options) {
  VerifySettings settings;
  settings.grid = options.tiny ? Grid::tiny : options.quick ? Grid::quick : Grid::full;
  settings.captures = captures_of(options);
  settings.reader = options.reader.options();
  for (const auto& list : options.variants) {
    for (const auto& text : split_variants(list)) settings.variants.push_back(parse_variant(text));
  }
  settings.accumulators = options.accumulators;
  settings.seed = options.seed;
  return settings;
}

Verification verify(const VerifyOptions& options) {
  const auto settings = settings_of(options);
  const auto found = cuda::find_devices();
  if (found.devices.empty()) throw DeviceError(fmt::format("verify: {}", found.why_none));
  std::unique_ptr<Progress> progress;
  auto result = verify_on(found.devices.front(), settings, [&](std::size_t done, std::size_t total) {
    if (progress == nullptr) progress = std::make_unique<Progress>(total, "cases");
    progress->update(done, done, found.devices.front().name);
  });
  if (progress != nullptr) progress->clear();
  return result;
}

#else

Verification verify(const VerifyOptions& options) {
  for (const auto& list : options.variants) {
    for (const auto& text : split_variants(list)) (void)parse_variant(text);
  }
  throw DeviceError("verify: this build has no CUDA engine, so there is nothing to verify");
}

#endif

int run_verify(const VerifyOptions& options) {
  const auto result = verify(options);
  fmt::print("{}", options.json ? verification_json(result).dump(1) + "\n" : verification_text(result));
  return static_cast<int>(result.passed() ? ExitCode::ok : ExitCode::check_failed);
}

}  // namespace

void setup_verify(CLI::App& app, Action& action) {
  auto options = std::make_shared<VerifyOptions>();
  auto* sub = app.add_subcommand("verify", "Hold this GPU's kernels against the emulation and the FP64 reference");
  sub->add_option("CAPTURE", options->captures, "Captures to verify on, beside synthetic ones (default: the samples)");
  sub->add_option("--variants", options->variants, "Only these variants");
  auto* quick = sub->add_flag("--quick", options->quick, "About a dozen shapes instead of all");
  sub->add_flag("--tiny", options->tiny, "Three small shapes, for tools that make kernels slow")->excludes(quick);
  sub->add_option("--accumulators", options->accumulators,
                  "Results of each tensor-core instruction to compare with its model; 0: none")
      ->capture_default_str();
  sub->add_option("--seed", options->seed, "Seed of the synthetic cases")->capture_default_str();
  sub->add_flag("--json", options->json, "Print as JSON");
  options->reader.add_to(*sub);
  sub->callback([options, &action] { action = [options] { return run_verify(*options); }; });
}

}  // namespace sage2
