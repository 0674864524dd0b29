#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "datasets/capture.hpp"
#include "datasets/synth.hpp"
#include "harness/agreement.hpp"
#include "nlohmann/json.hpp"
#include "reference/variant.hpp"

/// `sage2-eval verify`: what is verified, the gates, and how it is said. What runs on a GPU is in cuda_verify.hpp.
namespace sage2 {

/// One synthetic attention call.
struct VerifyCase {
  CellInfo cell;
  SynthKind kind = SynthKind::gaussian;
};

enum class Grid { full, quick, tiny };

/// Cases around every tile boundary, with biased and outlier channels, GQA, both masks and unequal lengths. `tiny` is
/// for tools that make a kernel a thousand times slower.
[[nodiscard]] std::vector<VerifyCase> verify_grid(Grid grid);

/// "q 65 x k 1000, d 64, heads 4/1, causal, k-bias, float16".
[[nodiscard]] std::string describe(const CellInfo& cell);

/// A variant on one engine, over all cases.
struct VerifiedVariant {
  std::string variant;  ///< canonical spelling
  /// "native", "borrowed" (tensor cores that sum as another chip's do) or "fast" (libsage2's kernels), held against the
  /// emulation on CUDA cores; "emulated": that one, held against the CPU's emulation.
  std::string engine;
  std::size_t cases = 0;
  Agreement agreement;
  Distance quantisation;            ///< of the engine's own output from the FP64 reference; not for "emulated"
  std::uint64_t other_counts = 0;   ///< heads whose counts (underflow, saturation) differ
  std::vector<std::string> faults;  ///< gates that failed, one sentence each
};

/// What one case found.
struct CaseFinding {
  std::string place;  ///< the case, in words
  Agreement agreement;
  Distance quantisation;
  std::uint64_t other_counts = 0, other_totals = 0;  ///< heads whose counts differ; whose number of entries of P does
  std::size_t row_length = 1, rows = 1;              ///< to say where a value is: head, row, channel
};

/// Adds a case, and what it breaks to the faults. Gates of native kernels: at least 99.9% of the outputs equal as BF16
/// (in every case of 10,000 values, and in all), none further than 1 ulp, every one finite, and a relative L1 distance
/// from the emulation of at most 1/1000 of that from the FP64 reference. Borrowed tensor cores must give the
/// emulation's outputs bit for bit. Fast kernels (ex2.approx; dS from 16-bit halves): finite, and the same 1/1000 of
/// fidelity. The emulation on a GPU must equal the CPU's bit for bit, and so must its counts.
void add_case(VerifiedVariant& variant, const CaseFinding& found);
/// The gates on all cases together.
void conclude(VerifiedVariant& variant);

/// An instruction of the tensor core against its model.
struct VerifiedAccumulator {
  std::string instruction, model, first_mismatch;
  std::uint64_t compared = 0, mismatches = 0;
};

struct Verification {
  std::string device;
  std::size_t cases = 0;
  std::vector<VerifiedVariant> variants;
  std::vector<VerifiedAccumulator> accumulators;

  [[nodiscard]] bool passed() const;
};

/// Tables of at most 80 columns, and the faults.
[[nodiscard]] std::string verification_text(const Verification& verification);
[[nodiscard]] nlohmann::json verification_json(const Verification& verification);

}  // namespace sage2
