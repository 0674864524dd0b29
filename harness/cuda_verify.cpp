#include "harness/cuda_verify.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>

#include "datasets/convert.hpp"
#include "datasets/synth.hpp"
#include "fmt/format.h"
#include "harness/cuda_fast.hpp"
#include "harness/cuda_heads.hpp"
#include "harness/selection.hpp"
#include "kernels/accumulator_probe.hpp"
#include "kernels/exact_attention.hpp"
#include "kernels/native.hpp"
#include "reference/emulate.hpp"

namespace sage2 {
namespace {

/// The CPU's emulation is asked for the first head where there are so few scores, and for the last one where there are
/// fewer still.
constexpr std::size_t kMostScores = std::size_t{1} << 20;
constexpr std::size_t kMostScoresOfTwo = std::size_t{1} << 17;
/// Of a captured cell, as many key/value heads as have about so many scores are taken.
constexpr std::size_t kScoresOfACell = std::size_t{1} << 28;

HeadBits stored(const Matrix& m, DType dtype) {
  std::vector<std::byte> bits(m.data.size() * byte_size(dtype));
  if (dtype == DType::float32) {
    std::memcpy(bits.data(), m.data.data(), bits.size());
  } else {
    const std::span codes(reinterpret_cast<std::uint16_t*>(bits.data()), m.data.size());
    dtype == DType::float16 ? narrow_float16(m.data, codes) : narrow_bfloat16(m.data, codes);
  }
  return std::make_shared<const std::vector<std::byte>>(std::move(bits));
}

Matrix widened(const std::vector<std::byte>& bits, DType dtype, std::size_t rows, std::size_t cols) {
  Matrix m(rows, cols);
  if (dtype == DType::float32) {
    std::memcpy(m.data.data(), bits.data(), bits.size());
    return m;
  }
  const std::span codes(reinterpret_cast<const std::uint16_t*>(bits.data()), m.data.size());
  dtype == DType::float16 ? widen_float16(codes, m.data) : widen_bfloat16(codes, m.data);
  return m;
}

HostHeads synthetic_heads(const VerifyCase& what, std::uint64_t seed) {
  auto heads = heads_of(what.cell);
  const auto& s = what.cell.shape;
  const auto make = [&](TensorName name, std::size_t head) {
    return stored(synth_head(what.kind, seed, what.cell, name, 0, head), what.cell.dtype);
  };
  for (std::size_t h = 0; h < s.q_heads; ++h) heads.q.push_back(make(TensorName::q, h));
  for (std::size_t h = 0; h < s.kv_heads; ++h) heads.k.push_back(make(TensorName::k, h));
  for (std::size_t h = 0; h < s.kv_heads; ++h) heads.v.push_back(make(TensorName::v, h));
  return heads;
}

/// The first key/value heads of the first batch entry, with all their query heads.
HostHeads captured_heads(const CaptureReader& reader, const CellInfo& cell) {
  auto heads = heads_of(cell);
  const auto& s = cell.shape;
  const std::size_t group = s.q_heads / s.kv_heads;
  const auto kv_heads = std::clamp<std::size_t>(kScoresOfACell / (s.q_len * s.kv_len * group), 1, s.kv_heads);
  const auto read = [&](TensorName name, std::size_t head) {
    std::vector<std::byte> bits;
    reader.read_head_bits(cell, name, 0, head, bits);
    const auto bad = first_nonfinite(cell.dtypes.at(static_cast<std::size_t>(name)), bits, s.head_dim);
    require_finite(reader, cell, name, 0, head, bad);
    return std::make_shared<const std::vector<std::byte>>(std::move(bits));
  };
  for (std::size_t h = 0; h < kv_heads * group; ++h) heads.q.push_back(read(TensorName::q, h));
  for (std::size_t h = 0; h < kv_heads; ++h) heads.k.push_back(read(TensorName::k, h));
  for (std::size_t h = 0; h < kv_heads; ++h) heads.v.push_back(read(TensorName::v, h));
  return heads;
}

HeadProblem head_problem(const HostHeads& heads, std::size_t q_head) {
  const auto kv = q_head / (heads.q.size() / heads.k.size());
  HeadProblem p;
  p.q = widened(*heads.q[q_head], heads.dtypes[0], heads.q_len, heads.head_dim);
  p.k = widened(*heads.k[kv], heads.dtypes[1], heads.kv_len, heads.head_dim);
  p.v = widened(*heads.v[kv], heads.dtypes[2], heads.kv_len, heads.head_dim);
  p.dtype = heads.dtype;
  p.is_causal = heads.is_causal;
  p.causal_align = heads.causal_align;
  p.sm_scale = heads.sm_scale;
  return p;
}

/// A variant and what was found out about it.
struct Subject {
  Variant variant;
  bool always = false;  ///< whether its emulation is verified though it does not run on tensor cores
  VerifiedVariant native, borrowed, fast, emulated;
};

class Verifier {
 public:
  Verifier(const cuda::DeviceInfo& device, const VerifySettings& settings) : device_(device) {
    if (!settings.variants.empty()) {
      for (const auto& v : settings.variants) add(v, true);
      return;
    }
    for (const auto& suite : suites()) {
      for (const auto& row : suite.rows) add(row.variant, true);
    }
    for (const auto& v : verification_variants()) add(v, false);
  }

  void run(const std::string& place, const HostHeads& host) {
    const auto head_dim = static_cast<std::int64_t>(host.head_dim);
    const DeviceHeads heads(host, stream_.get());
    place_ = place;
    problems_.clear();
    reference_.clear();
    const auto scores = host.q_len * host.kv_len;
    if (scores <= kMostScores) problems_.emplace_back(0, head_problem(host, 0));
    if (scores <= kMostScoresOfTwo && host.q.size() > 1) {
      problems_.emplace_back(host.q.size() - 1, head_problem(host, host.q.size() - 1));
    }
    for (auto& subject : subjects_) {
      const auto route = cuda::route_on(subject.variant, head_dim, device_.major, device_.minor);
      const bool tensor_cores = route != cuda::Route::cuda_cores;
      const bool emulated = !problems_.empty() && (subject.always || tensor_cores);
      if (tensor_cores || emulated) run(subject, heads, route, emulated);
    }
  }

  std::vector<VerifiedVariant> take() {
    std::vector<VerifiedVariant> all;
    for (auto& subject : subjects_) {
      for (auto* found : {&subject.native, &subject.borrowed, &subject.fast, &subject.emulated}) {
        conclude(*found);
        if (found->cases > 0) all.push_back(std::move(*found));
      }
    }
    return all;
  }

 private:
  void add(const Variant& variant, bool always) {
    const auto spelling = canonical(variant);
    const auto same = [&](const Subject& s) { return s.native.variant == spelling; };
    if (std::any_of(subjects_.begin(), subjects_.end(), same)) return;
    Subject subject;
    subject.variant = variant;
    subject.native.variant = subject.borrowed.variant = subject.fast.variant = subject.emulated.variant = spelling;
    subject.native.engine = "native";
    subject.borrowed.engine = "borrowed";
    subject.fast.engine = "fast";
    subject.emulated.engine = "emulated";
    subject.always = always;
    subjects_.push_back(std::move(subject));
  }

  [[nodiscard]] CaseFinding finding(const DeviceHeads& heads) const {
    CaseFinding found;
    found.place = place_;
    found.row_length = static_cast<std::size_t>(heads.head_dim());
    found.rows = static_cast<std::size_t>(heads.row_count());
    return found;
  }

  void run(Subject& subject, const DeviceHeads& heads, cuda::Route route, bool emulated) {
    const VariantRun emulation(heads, subject.variant, false, stream_.get());
    const auto expected = emulation.download();
    const auto counts = emulation.counts();
    if (route != cuda::Route::cuda_cores) {
      const VariantRun kernel(heads, subject.variant, true, stream_.get());
      const auto o = kernel.download();
      auto found = finding(heads);
      found.agreement = compare_outputs(o, expected);
      found.quantisation = distance(o, reference(heads));
      const auto own = kernel.counts();
      for (std::size_t h = 0; h < own.size(); ++h) {
        const bool same = own[h].p_underflow == counts[h].p_underflow && own[h].saturated == counts[h].saturated;
        found.other_counts += same ? 0 : 1;
        found.other_totals += own[h].p_total == counts[h].p_total ? 0 : 1;
      }
      add_case(route == cuda::Route::native ? subject.native : subject.borrowed, found);
      if (const auto fast = attend_fast(heads, subject.variant, device_.major, stream_.get())) {
        auto quick = finding(heads);
        quick.agreement = compare_outputs(*fast, expected);
        quick.quantisation = distance(*fast, reference(heads));
        add_case(subject.fast, quick);
      }
    }
    if (!emulated) return;
    auto found = finding(heads);
    const std::size_t size = found.row_length * found.rows;
    for (const auto& [h, problem] : problems_) {
      const auto truth = emulate(problem, subject.variant);
      auto head = compare_outputs(std::span(expected).subspan(h * size, size), truth.o.data);
      head.worst_at += h * size;
      found.agreement.merge(head);
      const auto& c = counts[h];
      const bool same =
          c.p_underflow == truth.p_underflow && c.p_total == truth.p_total && c.saturated == truth.saturated;
      found.other_counts += same ? 0 : 1;
    }
    add_case(subject.emulated, found);
  }

  const std::vector<double>& reference(const DeviceHeads& heads) {
    if (reference_.empty()) {
      cuda::DeviceBuffer<double> o(static_cast<std::size_t>(heads.q_count() * heads.row_count() * heads.head_dim()),
                                   stream_.get());
      cuda::exact_attention(heads.problem(), heads.rows(), o.data(), nullptr, stream_.get());
      reference_ = o.download();
    }
    return reference_;
  }

  const cuda::DeviceInfo& device_;
  cuda::Stream stream_;
  std::vector<Subject> subjects_;
  // Of the case at hand:
  std::string place_;
  std::vector<std::pair<std::size_t, HeadProblem>> problems_;  ///< the heads that the CPU emulates
  std::vector<double> reference_;
};

}  // namespace

Verification verify_on(const cuda::DeviceInfo& device, const VerifySettings& settings,
                       const std::function<void(std::size_t, std::size_t)>& progress) {
  SAGE2_CUDA_CHECK(cudaSetDevice(device.index));
  Verification result;
  result.device =
      fmt::format("{} (compute capability {}.{}, driver {})", device.name, device.major, device.minor, device.driver);
  std::vector<CaptureReader> readers;
  for (const auto& file : settings.captures) readers.emplace_back(file, settings.reader);
  const auto grid = verify_grid(settings.grid);
  std::size_t total = grid.size();
  for (const auto& reader : readers) total += reader.cells().size();

  Verifier verifier(device, settings);
  for (const auto& what : grid) {
    const auto place = fmt::format("{}, {}, seed {}", describe(what.cell), to_string(what.kind), settings.seed);
    verifier.run(place, synthetic_heads(what, settings.seed));
    progress(++result.cases, total);
  }
  for (const auto& reader : readers) {
    for (const auto& id : reader.cells()) {
      verifier.run(cell_name(reader, id), captured_heads(reader, reader.describe(id)));
      progress(++result.cases, total);
    }
  }
  result.variants = verifier.take();
  if (settings.accumulators > 0) {
    for (auto& probe : cuda::probe_accumulators(settings.accumulators, settings.seed)) {
      result.accumulators.push_back({std::move(probe.kind), std::move(probe.model), std::move(probe.first_mismatch),
                                     probe.compared, probe.mismatches});
    }
  }
  return result;
}

}  // namespace sage2
