#include "harness/verify.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <sstream>

namespace sage2 {
namespace {

constexpr float kUlpAtOne = 0x1p-7F;  // of BF16: seven bits follow the leading one

TEST(Agreement, CountsUnitsInTheLastPlaceOfBfloat16) {
  EXPECT_EQ(bfloat16_rank(1 + kUlpAtOne) - bfloat16_rank(1), 1);
  EXPECT_EQ(bfloat16_rank(1) - bfloat16_rank(1 - kUlpAtOne / 2), 1);
  EXPECT_EQ(bfloat16_rank(0.0F), bfloat16_rank(-0.0F));
  // Across zero: the least subnormal of either sign is one step away.
  EXPECT_EQ(bfloat16_rank(0x1p-133F), 1);
  EXPECT_EQ(bfloat16_rank(-0x1p-133F), -1);

  const std::vector<float> expected{1, 1, 1, 2, 0};
  const std::vector<float> found{1, 1 + 0x1p-20F, 1 + 3 * kUlpAtOne, 2, -0.0F};
  const auto a = compare_outputs(found, expected);
  EXPECT_EQ(a.values, 5U);
  EXPECT_EQ(a.same_fp32, 2U);  // -0 is another bit pattern ...
  EXPECT_EQ(a.same_bf16, 4U);  // ... but not another number
  EXPECT_EQ(a.worst_ulp, 3U);
  EXPECT_EQ(a.worst_at, 2U);
  EXPECT_DOUBLE_EQ(a.abs_difference, 0x1p-20 + 3.0 * kUlpAtOne);
  EXPECT_DOUBLE_EQ(a.rel_l1(), a.abs_difference / 5);
}

/// A difference that BF16 does not see is still said where it is.
TEST(Agreement, NotesTheFirstDifference) {
  const std::vector<float> expected(100, 1.0F);
  auto found = expected;
  EXPECT_FALSE(compare_outputs(found, expected).differ);
  found[30] = found[60] = 1 + 0x1p-20F;
  EXPECT_EQ(compare_outputs(found, expected).worst_at, 30U);
  found[80] = 1 + kUlpAtOne;
  EXPECT_EQ(compare_outputs(found, expected).worst_at, 80U);
  found[90] = std::nanf("");
  EXPECT_EQ(compare_outputs(found, expected).worst_at, 90U);
}

TEST(Agreement, NonFiniteEqualsNothing) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const auto a = compare_outputs(std::vector<float>{nan, inf, 1}, std::vector<float>{nan, inf, 1});
  EXPECT_EQ(a.nonfinite, 2U);
  EXPECT_EQ(a.same_fp32, 1U);
  EXPECT_TRUE(std::isnan(a.rel_l1()));
}

TEST(Agreement, PartsOfALongOutputAddUp) {
  std::vector<float> expected(300000, 1.0F);
  auto found = expected;
  found[200001] = 1 + kUlpAtOne;
  found[299999] = 1 - kUlpAtOne / 2;
  const auto a = compare_outputs(found, expected);
  EXPECT_EQ(a.values, expected.size());
  EXPECT_EQ(a.same_bf16, expected.size() - 2);
  EXPECT_EQ(a.worst_ulp, 1U);
  EXPECT_EQ(a.worst_at, 200001U);
  const std::vector<double> reference(expected.size(), 0.5);
  EXPECT_NEAR(distance(expected, reference).rel_l1(), 1.0, 1e-12);
}

/// A native kernel's finding: `same` of 100,000 values equal, one `ulp` away, and the two distances.
CaseFinding finding(std::uint64_t same, std::uint32_t ulp, double fidelity, double quantisation) {
  CaseFinding f;
  f.place = "the case";
  f.agreement.values = 100000;
  f.agreement.same_fp32 = f.agreement.same_bf16 = same;
  f.agreement.worst_ulp = ulp;
  f.agreement.abs_difference = fidelity;
  f.agreement.abs_expected = 1;
  f.quantisation = {quantisation, 1};
  f.row_length = 64;
  f.rows = 10;
  return f;
}

std::vector<std::string> faults(const CaseFinding& f, const char* engine = "native") {
  VerifiedVariant v;
  v.variant = "sage2-8b@hopper";
  v.engine = engine;
  add_case(v, f);
  conclude(v);
  return v.faults;
}

TEST(Verify, GatesOfNativeKernels) {
  EXPECT_TRUE(faults(finding(100000, 0, 0, 1e-2)).empty());
  EXPECT_TRUE(faults(finding(99900, 1, 1e-5, 1e-2)).empty());
  EXPECT_EQ(faults(finding(99899, 1, 1e-5, 1e-2)).size(), 2U);  // the case, and all of them
  EXPECT_EQ(faults(finding(99900, 2, 1e-5, 1e-2)).size(), 1U);
  EXPECT_EQ(faults(finding(99900, 1, 1.1e-5, 1e-2)).size(), 2U);
  EXPECT_EQ(faults(finding(100000, 0, 1e-9, 0)).size(), 2U);
  EXPECT_FALSE(faults(finding(100000, 0, std::nan(""), 1e-2)).empty());
  EXPECT_FALSE(faults(finding(100000, 0, 0, std::nan(""))).empty());
  auto nan = finding(100000, 0, 0, 1e-2);
  nan.agreement.nonfinite = 1;
  EXPECT_FALSE(faults(nan).empty());
  auto entries = finding(100000, 0, 0, 1e-2);
  entries.other_totals = 1;
  EXPECT_EQ(faults(entries).size(), 1U);
}

TEST(Verify, TheEmulationMustBeEqualToTheBit) {
  for (const char* engine : {"emulated", "borrowed"}) {
    EXPECT_TRUE(faults(finding(100000, 0, 0, 0), engine).empty());
    EXPECT_EQ(faults(finding(99999, 0, 0, 0), engine).size(), 1U);
    auto counts = finding(100000, 0, 0, 0);
    counts.other_counts = 1;
    EXPECT_EQ(faults(counts, engine).size(), 1U);
  }
}

TEST(Verify, AFaultSaysWhere) {
  auto f = finding(99999, 7, 0, 1e-2);
  f.agreement.worst_at = 64 * 10 * 2 + 64 * 3 + 5;
  f.agreement.worst_found = 0.25F;
  f.agreement.worst_expected = 0.5F;
  const auto said = faults(f);
  ASSERT_EQ(said.size(), 1U);
  EXPECT_NE(said[0].find("7 ulp apart; the case: head 2, row 3, channel 5: 0.25, expected 0.5"), std::string::npos)
      << said[0];
}

TEST(Verify, TablesFitInEightyColumns) {
  Verification v;
  v.device = "A GPU";
  for (const char* name :
       {"sage2-8b@hopper", "sage2-4b-v1@hopper:qk_gran=per_thread,smooth_v=off,pv_accum=fp32+fp32"}) {
    for (const char* engine : {"native", "borrowed", "emulated"}) {
      VerifiedVariant row;
      row.variant = name;
      row.engine = engine;
      add_case(row, finding(99900, 1, 1e-5, 1e-2));
      v.variants.push_back(row);
    }
  }
  v.accumulators.push_back(
      {"wgmma m64n64k32 e4m3 x e4m3, FP32 accumulator, A in registers", "group 32", "", 1000000000, 0});
  std::istringstream lines(verification_text(v));
  std::size_t count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    if (line.rfind("FAULT", 0) == 0) continue;  // sentences
    EXPECT_LE(line.size(), 80U) << line;
  }
  EXPECT_GT(count, 10U);
  EXPECT_FALSE(v.passed());  // the emulated rows are not equal
  EXPECT_EQ(verification_json(v).at("variants").size(), 6U);
}

TEST(Verify, GridsHoldTheShapesThatBreakKernels) {
  const auto grid = verify_grid(Grid::full);
  std::set<std::size_t> lengths, groups, dims;
  std::set<SynthKind> kinds;
  bool unequal = false, top_left = false, masks[2] = {false, false};
  for (const auto& c : grid) {
    const auto& s = c.cell.shape;
    lengths.insert(s.kv_len);
    groups.insert(s.q_heads / s.kv_heads);
    dims.insert(s.head_dim);
    kinds.insert(c.kind);
    unequal = unequal || s.q_len != s.kv_len;
    top_left = top_left || c.cell.causal_align == CausalAlign::top_left;
    masks[c.cell.is_causal ? 1 : 0] = true;
    EXPECT_EQ(s.q_heads % s.kv_heads, 0U);
  }
  for (const std::size_t n : {1, 63, 64, 65, 127, 1000, 4096, 17776}) EXPECT_TRUE(lengths.contains(n)) << n;
  EXPECT_EQ(groups, (std::set<std::size_t>{1, 4, 6}));
  EXPECT_EQ(dims, (std::set<std::size_t>{64, 96, 128}));
  EXPECT_GE(kinds.size(), 5U);
  EXPECT_TRUE(unequal && top_left && masks[0] && masks[1]);
  EXPECT_LT(verify_grid(Grid::quick).size(), grid.size() / 2);
  EXPECT_LE(verify_grid(Grid::tiny).size(), 6U);
}

}  // namespace
}  // namespace sage2
