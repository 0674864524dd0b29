#pragma once

#include <cstdint>
#include <string>
#include <vector>

/// The accumulator model of docs/numerics.md, section 4, against the tensor cores of the chip at hand.
namespace sage2::cuda {

/// Another model than the documented one, and how many results of the hardware it misses.
struct OtherModel {
  std::string model;
  std::uint64_t compared = 0, mismatches = 0;
};

/// One instruction and combination of formats.
struct AccumulatorProbe {
  std::string kind;              ///< "wgmma m64n64k32 e4m3 x e4m3, FP32 accumulator"
  std::string model;             ///< the documented model's parameters
  std::uint64_t compared = 0;    ///< accumulator results compared, bit for bit
  std::uint64_t mismatches = 0;  ///< results that differ
  std::string first_mismatch;    ///< words and both results of the first few; empty where there is none
  std::vector<OtherModel> near;  ///< models one step away: what the probe sees of a wrong one
};

/// Compares at least `count` results of each kind that the current device has, on random words: all finite codes,
/// narrow exponent ranges, subnormals, sparse, cancelling, and such as P and V hold; C zero, chained, large, small,
/// cancelling. The model runs on the device in plain integers (accumulator_words.hpp). The same seed gives the same
/// words.
[[nodiscard]] std::vector<AccumulatorProbe> probe_accumulators(std::uint64_t count, std::uint64_t seed);

}  // namespace sage2::cuda
