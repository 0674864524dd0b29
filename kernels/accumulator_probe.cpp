#include "kernels/accumulator_probe.hpp"

#include <algorithm>

#include "fmt/format.h"
#include "kernels/accumulator_probe_parts.hpp"
#include "kernels/cuda_check.hpp"
#include "kernels/device_buffer.hpp"
#include "reference/accumulator.hpp"

namespace sage2::cuda {
namespace {

using probe::Findings;
using probe::Instruction;

constexpr int kTiles = 2048;
constexpr std::uint64_t kResults = std::uint64_t{kTiles} * probe::kRows * probe::kCols;

struct Chip {
  Arch arch;
  int major, minor;
};

Chip current_chip() {
  int device = 0;
  Chip c{};
  SAGE2_CUDA_CHECK(cudaGetDevice(&device));
  SAGE2_CUDA_CHECK(cudaDeviceGetAttribute(&c.major, cudaDevAttrComputeCapabilityMajor, device));
  SAGE2_CUDA_CHECK(cudaDeviceGetAttribute(&c.minor, cudaDevAttrComputeCapabilityMinor, device));
  c.arch = c.major == 8 ? (c.minor == 9 ? Arch::ada : Arch::ampere) : (c.major == 9 ? Arch::hopper : Arch::blackwell);
  return c;
}

Format format_of(WordFormat f) {
  if (f.bits() == 8) return f.has_infinity ? Format::e5m2 : Format::e4m3;
  return f.exponent_bits == 8 ? Format::bf16 : Format::fp16;
}

/// The model of docs/numerics.md for an instruction.
WordModel documented_model(const Chip& chip, const Instruction& what, bool unpacked) {
  WordModel m;
  m.through_fp16 = unpacked;
  const auto a = unpacked ? Format::fp16 : format_of(what.a);
  const auto b = unpacked ? Format::fp16 : format_of(what.b);
  const auto model = accumulator_model(chip.arch, a, b, what.half);
  m.group = model.group;
  m.fraction = model.fraction;
  m.out_fraction = model.out_fraction;
  m.half = what.half;
  return m;
}

std::string describe(const WordModel& m) {
  std::string s = fmt::format("group {} F {} {}", m.group, m.fraction,
                              m.half ? std::string("to FP16") : fmt::format("OUT {}", m.out_fraction));
  if (m.through_fp16) s += ", through FP16";
  if (!m.half && m.least != kLeastSumExponent) s += fmt::format(" least {}", m.least);
  return s;
}

/// Device memory of a run, and the runs.
class Runner {
 public:
  Runner()
      : tiles_(kTiles, stream_.get()),
        c_(kTiles, stream_.get()),
        d_(kTiles, stream_.get()),
        findings_(1, stream_.get()) {}

  Findings run(const Instruction& what, const WordModel& model, std::uint64_t count, std::uint64_t seed) {
    findings_.zero();
    const auto stream = stream_.get();
    for (std::uint64_t done = 0; done < count; done += kResults) {
      const std::uint64_t step = seed + (done / kResults) * 0x632BE59BD9B4E019ULL;
      const auto* const previous = done > 0 ? d_.data() : nullptr;
      probe::fill_tiles(tiles_.data(), c_.data(), previous, kTiles, what, model, step, stream);
      what.run(tiles_.data(), c_.data(), d_.data(), kTiles, stream);
      probe::judge(tiles_.data(), c_.data(), d_.data(), kTiles, what, model, findings_.data(), stream);
    }
    return findings_.download().front();
  }

  /// How many of the last results a model misses.
  std::uint64_t mismatches_of_last(const Instruction& what, const WordModel& model) {
    findings_.zero();
    probe::judge(tiles_.data(), c_.data(), d_.data(), kTiles, what, model, findings_.data(), stream_.get());
    return findings_.download().front().mismatches;
  }

 private:
  Stream stream_;
  DeviceBuffer<probe::Tile> tiles_;
  DeviceBuffer<probe::Sums> c_, d_;
  DeviceBuffer<Findings> findings_;
};

std::string describe(const probe::Mismatch& m, const Instruction& what) {
  const int digits = what.half ? 4 : 8;
  const int width = what.a.bits() / 4;
  const auto depth = static_cast<std::size_t>(probe::kBytes * 8 / what.a.bits());
  const auto words = [&](const std::uint16_t* from) {
    std::string s;
    for (std::size_t k = 0; k < depth; ++k) s += fmt::format(" {:0{}x}", from[k], width);
    return s;
  };
  return fmt::format("c {:0{}x}: hardware {:0{}x}, model {:0{}x}; a{}; b{}", m.c, digits, m.hardware, digits, m.model,
                     digits, words(m.a), words(m.b));
}

/// Models one step away from a model.
std::vector<WordModel> near(const WordModel& model, const Instruction& what) {
  std::vector<WordModel> all;
  const auto changed = [&](int WordModel::*parameter, int value) {
    all.push_back(model);
    all.back().*parameter = value;
  };
  changed(&WordModel::group, model.group / 2);
  changed(&WordModel::fraction, model.fraction - 1);
  changed(&WordModel::fraction, model.fraction + 1);
  if (!what.half) {
    changed(&WordModel::out_fraction, model.out_fraction - 1);
    if (model.out_fraction < 23) changed(&WordModel::out_fraction, model.out_fraction + 1);
  }
  if (what.a.exponent_bits == kBf16Word.exponent_bits) {
    changed(&WordModel::least, model.least - 1);
    changed(&WordModel::least, model.least + 1);
  }
  return all;
}

}  // namespace

std::vector<AccumulatorProbe> probe_accumulators(std::uint64_t count, std::uint64_t seed) {
  const Chip chip = current_chip();
  struct Kind {
    const Instruction* what;
    bool unpacked;
  };
  std::vector<Kind> kinds;
  const auto add = [&](std::span<const Instruction> some, bool unpacked) {
    for (const auto& i : some) kinds.push_back({&i, unpacked});
  };
  if (chip.arch == Arch::hopper) add(probe::wgmma_instructions(), false);
  add(probe::mma_instructions(), false);
  if (chip.major > 8 || chip.minor == 9) add(probe::fp8_mma_instructions(), chip.arch == Arch::hopper);
  Runner runner;
  std::vector<AccumulatorProbe> out;
  for (const auto& [what, unpacked] : kinds) {
    const auto model = documented_model(chip, *what, unpacked);
    const auto found = runner.run(*what, model, count, seed);
    AccumulatorProbe p;
    p.kind = what->name;
    p.model = describe(model);
    p.compared = (count + kResults - 1) / kResults * kResults;
    p.mismatches = found.mismatches;
    for (std::uint32_t i = 0; i < std::min<std::uint32_t>(found.kept, probe::kKept); ++i) {
      p.first_mismatch += (i > 0 ? "\n" : "") + describe(found.first[i], *what);
    }
    for (const auto& other : near(model, *what)) {
      p.near.push_back({describe(other), kResults, runner.mismatches_of_last(*what, other)});
    }
    out.push_back(std::move(p));
  }
  return out;
}

}  // namespace sage2::cuda
