#include "datasets/synth.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "datasets/capture_writer.hpp"
#include "datasets/error.hpp"
#include "datasets/rng.hpp"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace sage2 {
namespace {

constexpr std::size_t kSinks = 4;

/// What a random stream is for.
enum Purpose : std::uint64_t { kTokens, kChannels, kDirection, kTargets };

/// Generates the rows of one head.
class Head {
 public:
  Head(SynthKind kind, std::uint64_t seed, const CellInfo& cell, TensorName name, std::size_t batch, std::size_t head)
      : kind_(kind),
        cell_(cell),
        name_(name),
        kv_head_(name == TensorName::q ? cell.shape.kv_head(head) : head),
        layer_(RandomStream(seed).at(static_cast<std::uint64_t>(cell.id.layer))),
        call_(layer_.at(kTokens)
                  .at(static_cast<std::uint64_t>(cell.id.timestep))
                  .at(static_cast<std::uint64_t>(cell.id.sample))
                  .at(batch)),
        tokens_(call_.at(static_cast<std::uint64_t>(name)).at(head)),
        keys_(call_.at(static_cast<std::uint64_t>(TensorName::k)).at(kv_head_)),
        targets_(call_.at(kTargets).at(head)) {
    make_channels();
  }

  void row(std::size_t i, std::span<float> out) const {
    normal_row(tokens_, i, out);
    for (std::size_t c = 0; c < out.size(); ++c) out[c] = out[c] * gain_[c] + bias_[c];
    if (kind_ == SynthKind::sinks && name_ != TensorName::q && i < kSinks) sink_row(out);
    if (kind_ == SynthKind::peaked && name_ == TensorName::q) aim_row(i, out);
  }

 private:
  /// Gain and bias of each channel: the same for all tokens, steps and samples, as in a trained model.
  void make_channels() {
    const std::size_t d = cell_.shape.head_dim;
    gain_.assign(d, 1.0F);
    bias_.assign(d, 0.0F);
    const bool q = name_ == TensorName::q;
    const bool k = name_ == TensorName::k;
    switch (kind_) {
      case SynthKind::k_bias:
        if (k) bias_channels(4, 6.0F, 10.0F);
        break;
      case SynthKind::cogvideox:
        if (q) bias_channels(4, 3.0F, 5.0F);
        if (k) bias_channels(4, 4.0F, 6.0F);
        if (!q && !k) bias_channels(2, 8.0F, 9.0F);
        break;
      case SynthKind::outliers: {
        // Half a period apart in Q and K: large times large would leave one key with all the weight.
        const std::size_t first = channels().index(0, 8) + (k ? 8 : 0);
        for (std::size_t c = 0; c < d; ++c) gain_[c] = c % 16 == first % std::min<std::size_t>(16, d) ? 10.0F : 1.0F;
        break;
      }
      case SynthKind::sinks:
        if (q) bias_ = direction();
        break;
      case SynthKind::peaked:
        if (q) gain_.assign(d, 0.5F);
        break;
      case SynthKind::flat:
        if (q) gain_.assign(d, 0.05F);
        break;
      case SynthKind::gaussian:
        break;
    }
  }

  /// Outlier channels must lie in known places relative to each other, so Q, K and V share a stream there.
  [[nodiscard]] RandomStream channels() const { return layer_.at(kChannels).at(kv_head_); }

  void bias_channels(std::size_t period, float low, float high) {
    const RandomStream stream = channels().at(static_cast<std::uint64_t>(name_));
    const std::size_t first = stream.index(0, static_cast<std::uint32_t>(std::min(period, bias_.size())));
    for (std::size_t c = first; c < bias_.size(); c += period) {
      const auto size = static_cast<float>(stream.uniform(2 * c + 4));
      const bool negative = stream.uniform(2 * c + 5) < 0.5;
      bias_[c] = (negative ? -1.0F : 1.0F) * (low + (high - low) * size);
    }
  }

  /// The direction that queries share and sinks point along: a sign for each channel.
  [[nodiscard]] std::vector<float> direction() const {
    const RandomStream stream = layer_.at(kDirection).at(kv_head_);
    std::vector<float> u(cell_.shape.head_dim);
    for (std::size_t c = 0; c < u.size(); ++c) u[c] = stream.uniform(c) < 0.5 ? -1.0F : 1.0F;
    return u;
  }

  /// Scores of other keys are normal with variance 2 (one part from the query's noise, one from its direction), so
  /// their exponentials add up to about n e; sinks score B with 4 e^B = 9 n e, which is 90% of the weight.
  void sink_row(std::span<float> out) const {
    if (name_ == TensorName::v) {
      for (float& x : out) x *= 0.05F;
      return;
    }
    const double n = static_cast<double>(cell_.shape.kv_len);
    const double score = portable_log(n / kSinks) + 1.0 + portable_log(9.0);
    const auto length = static_cast<float>(score / std::sqrt(static_cast<double>(out.size())));
    const std::vector<float> u = direction();
    for (std::size_t c = 0; c < out.size(); ++c) out[c] = 0.25F * out[c] + length * u[c];
  }

  /// Adds a multiple of one visible key, whose score then is about ln n + 6, while the others' exponentials add up to
  /// a few times n.
  void aim_row(std::size_t i, std::span<float> out) const {
    const std::size_t visible = visible_keys(i);
    if (visible == 0) return;
    std::vector<float> key(out.size());
    normal_row(keys_, targets_.index(i, static_cast<std::uint32_t>(visible)), key);
    const double score = portable_log(static_cast<double>(cell_.shape.kv_len)) + 6.0;
    const auto length = static_cast<float>(score / std::sqrt(static_cast<double>(out.size())));
    for (std::size_t c = 0; c < out.size(); ++c) out[c] += length * key[c];
  }

  /// Keys that query row i sees, as HeadProblem::visible counts them.
  [[nodiscard]] std::size_t visible_keys(std::size_t i) const {
    const auto [batch, q_heads, kv_heads, q_len, kv_len, head_dim] = cell_.shape;
    if (!cell_.is_causal) return kv_len;
    if (cell_.causal_align == CausalAlign::top_left) return std::min(i + 1, kv_len);
    return i + 1 + kv_len > q_len ? std::min(i + 1 + kv_len - q_len, kv_len) : 0;
  }

  static void normal_row(const RandomStream& stream, std::size_t i, std::span<float> out) {
    const std::size_t blocks = (out.size() + 3) / 4;
    for (std::size_t b = 0; b < blocks; ++b) {
      const auto bits = stream.block(i * blocks + b);
      for (std::size_t j = 0; j < 4 && 4 * b + j < out.size(); ++j) {
        out[4 * b + j] = static_cast<float>(normal_quantile(RandomStream::to_uniform(bits.at(j))));
      }
    }
  }

  SynthKind kind_;
  const CellInfo& cell_;
  TensorName name_;
  std::size_t kv_head_;
  RandomStream layer_, call_, tokens_, keys_, targets_;
  std::vector<float> gain_, bias_;
};

void check(const SynthOptions& o) {
  const Shape& s = o.shape;
  if (o.kinds.empty()) throw UsageError("synth: no kind given");
  if (o.layers < 1 || o.timesteps < 1 || o.samples < 1) {
    throw UsageError(fmt::format("synth: expected at least one layer, timestep and sample, found {}, {} and {}",
                                 o.layers, o.timesteps, o.samples));
  }
  if (s.batch < 1 || s.q_heads < 1 || s.kv_heads < 1 || s.q_len < 1 || s.kv_len < 1 || s.head_dim < 1) {
    throw UsageError("synth: every axis of a tensor needs at least one element");
  }
  if (s.q_heads % s.kv_heads != 0) {
    throw UsageError(
        fmt::format("synth: {} query heads are not a multiple of {} key/value heads", s.q_heads, s.kv_heads));
  }
  if (s.head_dim > 256) throw UsageError(fmt::format("synth: head_dim {} is above 256", s.head_dim));
  if (std::max(s.q_len, s.kv_len) > std::numeric_limits<std::uint32_t>::max() / 256) {
    throw UsageError("synth: sequences are limited to 16 million tokens");
  }
  if (o.gzip < 0 || o.gzip > 9) throw UsageError(fmt::format("synth: gzip level {} is not from 0 to 9", o.gzip));
}

}  // namespace

const std::vector<SynthKindInfo>& synth_kinds() {
  static const std::vector<SynthKindInfo> kinds{
      {SynthKind::gaussian, "gaussian", "Q, K, V standard normal, no structure"},
      {SynthKind::k_bias, "k-bias", "every 4th channel of K biased by +-6 to 10"},
      {SynthKind::cogvideox, "cogvideox", "biased channels in Q, K and V (V by +-8 to 9)"},
      {SynthKind::outliers, "outliers", "every 16th channel ten times larger"},
      {SynthKind::sinks, "sinks", "90% of the weight on the first 4 tokens"},
      {SynthKind::peaked, "peaked", "95% of the weight on one key a query"},
      {SynthKind::flat, "flat", "all keys weigh almost the same"}};
  return kinds;
}

const char* to_string(SynthKind kind) {
  return synth_kinds().at(static_cast<std::size_t>(kind)).name;
}

SynthKind parse_synth_kind(std::string_view name) {
  std::vector<std::string_view> known;
  for (const SynthKindInfo& info : synth_kinds()) {
    if (name == info.name) return info.kind;
    known.emplace_back(info.name);
  }
  throw UsageError(fmt::format("synth: unknown kind '{}', expected one of {}", name, fmt::join(known, ", ")));
}

Matrix synth_head(SynthKind kind, std::uint64_t seed, const CellInfo& cell, TensorName name, std::size_t batch,
                  std::size_t head) {
  const Head generator(kind, seed, cell, name, batch, head);
  Matrix m(name == TensorName::q ? cell.shape.q_len : cell.shape.kv_len, cell.shape.head_dim);
#pragma omp parallel for schedule(static)
  for (std::size_t i = 0; i < m.rows; ++i) generator.row(i, {m.row(i), m.cols});
  return m;
}

void write_synthetic(const std::filesystem::path& file, const SynthOptions& options,
                     const std::function<void(std::size_t, std::size_t)>& progress) {
  check(options);
  std::vector<std::string> names;
  for (const SynthKind kind : options.kinds) names.emplace_back(to_string(kind));
  CaptureWriter writer(file, {fmt::format("synthetic {}", fmt::join(names, ",")),
                              fmt::format("sage2-eval synth, seed {}", options.seed), options.gzip});
  const Shape& s = options.shape;
  const std::size_t total = static_cast<std::size_t>(options.layers) * static_cast<std::size_t>(options.timesteps) *
                            static_cast<std::size_t>(options.samples);
  std::size_t done = 0;
  CellInfo cell;
  cell.shape = s;
  cell.dtype = options.dtype;
  cell.layout = options.layout;
  cell.is_causal = options.is_causal;
  cell.causal_align = options.causal_align;
  cell.sm_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_dim)));
  cell.seed = static_cast<std::int64_t>(options.seed);
  const auto write = [&](SynthKind kind, TensorName name, std::size_t heads) {
    for (std::size_t i = 0; i < s.batch * heads; ++i) {
      const std::size_t batch = i / heads;
      const std::size_t head = i % heads;
      writer.write_head(name, batch, head, synth_head(kind, options.seed, cell, name, batch, head));
    }
  };
  for (int layer = 0; layer < options.layers; ++layer) {
    const SynthKind kind = options.kinds[static_cast<std::size_t>(layer) % options.kinds.size()];
    for (int timestep = 0; timestep < options.timesteps; ++timestep) {
      for (int sample = 0; sample < options.samples; ++sample) {
        cell.id = {layer, timestep, sample};
        cell.layer_name = fmt::format("layers.{}.{}", layer, to_string(kind));
        cell.timestep_value = 1.0 - static_cast<double>(timestep) / options.timesteps;
        writer.begin_cell(cell);
        write(kind, TensorName::q, s.q_heads);
        write(kind, TensorName::k, s.kv_heads);
        write(kind, TensorName::v, s.kv_heads);
        if (progress) progress(++done, total);
      }
    }
  }
  writer.finish();
}

}  // namespace sage2
