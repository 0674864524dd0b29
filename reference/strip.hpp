#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "Eigen/Core"
#include "reference/panel.hpp"
#include "reference/quantize.hpp"
#include "reference/summation.hpp"

/// The attention loop of one strip of 32 query rows: key tile by key tile, as a kernel's warp does it.
namespace sage2 {

/// 64-byte aligned storage, so that panels load whole registers.
template <class T>
using AlignedVector = std::vector<T, Eigen::aligned_allocator<T>>;

/// One part of V, ready for the inner loops.
struct PvPlan {
  const VOperand* operand = nullptr;
  Summation how = Summation::fp64;
  AccumulatorModel model{};
  std::vector<std::int8_t> exponents;  ///< of the codes, for Summation::narrow
  AlignedVector<double> codes64;       ///< for Summation::fp64
};

/// What all strips of a head share.
struct AttentionPlan {
  AttentionPlan(const HeadProblem& problem, const Variant& variant, const Operands& operands);

  const HeadProblem& problem;
  const Variant& variant;
  const Operands& operands;
  float scale_log2;  ///< sm_scale log2(e)
  float p_offset;
  Summation qk_how;
  AccumulatorModel qk_model{};
  std::vector<std::int8_t> k_exponents;  ///< for Summation::narrow
  AlignedVector<double> k64;             ///< for Summation::fp64
  std::vector<PvPlan> pv;
};

struct StripCounts {
  std::uint64_t underflow = 0, total = 0, saturated = 0;
};

/// Working memory and the loop; one per thread.
class Strip {
 public:
  explicit Strip(const AttentionPlan& plan);

  /// Computes up to kStrip query rows; writes `rows.size()` rows of head_dim values to `o`.
  void run(std::span<const std::uint32_t> rows, float* o);
  [[nodiscard]] const StripCounts& counts() const { return counts_; }

 private:
  void load_queries(std::span<const std::uint32_t> rows);
  void scores(std::size_t first_key, std::size_t keys);
  void softmax(std::size_t first_key, std::size_t keys);
  void multiply_v(std::size_t part, std::size_t first_key, std::size_t keys);
  void finish(std::size_t rows, float* o) const;

  const AttentionPlan& plan_;
  StripCounts counts_;
  // Panels [k or n][kStrip].
  AlignedVector<float> q_, s_, p_;
  AlignedVector<std::int8_t> q_exponents_, p_exponents_;
  AlignedVector<double> q64_, p64_, s64_;
  std::vector<AlignedVector<float>> o_;     ///< per part of V: [channels][kStrip], FP32 register or accumulator
  std::vector<AlignedVector<double>> o64_;  ///< the same where PV is exact
  AlignedVector<float> tile_;               ///< a key tile's fresh accumulator
  AlignedVector<float> delta_;              ///< dS of the tile, [keys][kStrip]
  // Per row.
  AlignedVector<float> q_scale_, m_, alpha_;
  AlignedVector<float> l_;  ///< denominator, four partial sums [4][kStrip]
  AlignedVector<std::int32_t> visible_;
  std::vector<const float*> delta_rows_;  ///< dS of each row's block, over all keys
  std::size_t last_visible_ = 0;
};

}  // namespace sage2
