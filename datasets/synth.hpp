#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "datasets/capture.hpp"

/// Seeded synthetic captures with the structure that makes attention hard or easy to quantise; the same bits on every
/// platform.
namespace sage2 {

/// What a synthetic head looks like. Everything not named is standard normal; sm_scale is 1/sqrt(head_dim).
enum class SynthKind : std::uint8_t {
  gaussian,   ///< Q, K, V standard normal: no structure at all
  k_bias,     ///< every 4th channel of K biased by +-6 to 10: what smoothing K removes
  cogvideox,  ///< every 4th channel of Q (+-3 to 5) and K (+-4 to 6) biased, every 2nd of V by +-8 to 9
  outliers,   ///< every 16th channel of Q, K and V ten times larger, not the same ones in Q and K: smoothing is no help
  sinks,      ///< all queries give about 90% of their weight to the first 4 tokens, whose V is near zero
  peaked,     ///< each query gives most of its weight (about 95%) to one visible key of its own
  flat        ///< Q scaled by 1/20: all keys weigh almost the same
};

struct SynthKindInfo {
  SynthKind kind;
  const char* name;     ///< as on the command line: "k-bias"
  const char* meaning;  ///< one line
};
[[nodiscard]] const std::vector<SynthKindInfo>& synth_kinds();
[[nodiscard]] const char* to_string(SynthKind kind);
/// Throws UsageError, listing the kinds, where there is none of that name.
[[nodiscard]] SynthKind parse_synth_kind(std::string_view name);

/// One head [length, head_dim] in FP32, not yet rounded to the cell's format. Depends on the seed, the kind, the cell's
/// id, mask and shape, and the place; channel structure on seed, layer and key/value head only. Any head can be made
/// without the others.
[[nodiscard]] Matrix synth_head(SynthKind kind, std::uint64_t seed, const CellInfo& cell, TensorName name,
                                std::size_t batch, std::size_t head);

struct SynthOptions {
  std::vector<SynthKind> kinds{SynthKind::gaussian};  ///< one a layer, cycling
  int layers = 1;
  int timesteps = 1;
  int samples = 1;
  Shape shape;
  DType dtype = DType::float16;
  Layout layout = Layout::hnd;
  bool is_causal = false;
  CausalAlign causal_align = CausalAlign::bottom_right;
  int gzip = 0;
  std::uint64_t seed = 0;
};

/// Writes a whole capture, one head in memory at a time. `progress` is called after each cell with the number done
/// and the number there is to do. Throws UsageError where the options make no sense, DataError where the file cannot be
/// written.
void write_synthetic(const std::filesystem::path& file, const SynthOptions& options,
                     const std::function<void(std::size_t, std::size_t)>& progress = {});

}  // namespace sage2
