#include <cstdio>
#include <memory>

#include "datasets/error.hpp"
#include "datasets/synth.hpp"
#include "fmt/format.h"
#include "harness/command.hpp"
#include "harness/progress.hpp"

namespace sage2 {
namespace {

struct SynthCommand {
  std::string out;
  std::vector<std::string> kinds{"gaussian"};
  int layers = 0;
  std::size_t kv_heads = 0;
  std::size_t tokens = 1024;
  std::size_t q_len = 0;
  std::size_t kv_len = 0;
  std::string compression = "none";
  std::string dtype = "float16";
  std::string layout = "HND";
  SynthOptions synth;
};

/// Sets what depends on other flags: as many layers as kinds, as many key/value heads as query heads, one length.
SynthOptions resolved(const SynthCommand& command) {
  SynthOptions o = command.synth;
  o.kinds.clear();
  for (const std::string& kind : command.kinds) o.kinds.push_back(parse_synth_kind(kind));
  o.layers = command.layers > 0 ? command.layers : static_cast<int>(o.kinds.size());
  o.shape.kv_heads = command.kv_heads > 0 ? command.kv_heads : o.shape.q_heads;
  o.shape.q_len = command.q_len > 0 ? command.q_len : command.tokens;
  o.shape.kv_len = command.kv_len > 0 ? command.kv_len : command.tokens;
  o.dtype = command.dtype == "float16"    ? DType::float16
            : command.dtype == "bfloat16" ? DType::bfloat16
                                          : DType::float32;
  o.layout = command.layout == "NHD" ? Layout::nhd : Layout::hnd;
  if (command.compression == "gzip") o.gzip = 4;
  return o;
}

int run_synth(const SynthCommand& command) {
  const SynthOptions options = resolved(command);
  Progress progress(static_cast<std::size_t>(options.layers) * static_cast<std::size_t>(options.timesteps) *
                    static_cast<std::size_t>(options.samples));
  write_synthetic(command.out, options,
                  [&](std::size_t done, std::size_t /*total*/) { progress.update(done, done, command.out); });
  progress.clear();
  fmt::print("{}: {} layers x {} timesteps x {} samples, {:.1f} MB\n", command.out, options.layers, options.timesteps,
             options.samples, static_cast<double>(std::filesystem::file_size(command.out)) / 1e6);
  return 0;
}

std::string kind_help() {
  std::string help = "What the layers look like, one kind a layer, cycling:";
  for (const SynthKindInfo& kind : synth_kinds()) help += fmt::format("\n{}: {}", kind.name, kind.meaning);
  return help;
}

}  // namespace

void setup_synth(CLI::App& app, Action& action) {
  auto command = std::make_shared<SynthCommand>();
  SynthOptions& o = command->synth;
  o.shape.q_heads = 2;
  o.shape.head_dim = 64;
  auto* sub = app.add_subcommand("synth", "Write a seeded synthetic capture with named structure");
  sub->add_option("--out", command->out, "Capture to write")->required();
  sub->add_option("--kind", command->kinds, kind_help())->delimiter(',')->capture_default_str();
  sub->add_option("--layers", command->layers, "Layers (default: one for each kind)")->check(CLI::PositiveNumber);
  sub->add_option("--timesteps", o.timesteps, "Timesteps a layer")->check(CLI::PositiveNumber)->capture_default_str();
  sub->add_option("--samples", o.samples, "Samples a timestep")->check(CLI::PositiveNumber)->capture_default_str();
  sub->add_option("--batch", o.shape.batch, "Batch of each call")->check(CLI::PositiveNumber)->capture_default_str();
  sub->add_option("--heads", o.shape.q_heads, "Query heads")->check(CLI::PositiveNumber)->capture_default_str();
  sub->add_option("--kv-heads", command->kv_heads, "Key/value heads (default: as many as query heads)")
      ->check(CLI::PositiveNumber);
  sub->add_option("--tokens", command->tokens, "Length of queries and keys")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  sub->add_option("--q-len", command->q_len, "Length of queries, if another")->check(CLI::PositiveNumber);
  sub->add_option("--kv-len", command->kv_len, "Length of keys, if another")->check(CLI::PositiveNumber);
  sub->add_option("--head-dim", o.shape.head_dim, "Head dimension")->check(CLI::PositiveNumber)->capture_default_str();
  sub->add_flag("--causal", o.is_causal, "Causal mask");
  sub->add_option("--dtype", command->dtype, "Stored format")
      ->check(CLI::IsMember({"float16", "bfloat16", "float32"}))
      ->capture_default_str();
  sub->add_option("--layout", command->layout, "Order of the axes")
      ->check(CLI::IsMember({"HND", "NHD"}))
      ->capture_default_str();
  sub->add_option("--compression", command->compression, "Compression of the file")
      ->check(CLI::IsMember({"none", "gzip"}))
      ->capture_default_str();
  sub->add_option("--seed", o.seed, "Seed; the same seed gives the same bits everywhere")->capture_default_str();
  sub->callback([command, &action] { action = [command] { return run_synth(*command); }; });
}

}  // namespace sage2
