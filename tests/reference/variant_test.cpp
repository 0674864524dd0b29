#include "reference/variant.hpp"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "datasets/error.hpp"
#include "reference/variant_rules.hpp"

namespace sage2 {
namespace {

std::string why_refused(const std::string& text) {
  try {
    (void)parse_variant(text);
  } catch (const UsageError& e) {
    return e.what();
  }
  return "";
}

TEST(Variant, EveryPresetAndSuiteRowRoundTrips) {
  for (const auto& p : presets()) {
    EXPECT_EQ(parse_variant(p.name), p.variant) << p.name;
    EXPECT_EQ(canonical(p.variant), p.name);
    EXPECT_EQ(normalised(p.variant), p.variant) << p.name;
  }
  for (const auto& s : suites()) {
    for (const auto& row : s.rows) {
      EXPECT_FALSE(contradiction(row.variant)) << s.name << " " << row.label;
      EXPECT_EQ(parse_variant(canonical(row.variant)), row.variant) << s.name << " " << row.label;
    }
  }
}

TEST(Variant, SuiteRowsAreDistinct) {
  for (const auto& s : suites()) {
    std::set<std::string> labels;
    std::set<std::string> spellings;
    for (const auto& row : s.rows) {
      EXPECT_TRUE(labels.insert(row.label).second) << s.name << " " << row.label;
      EXPECT_TRUE(spellings.insert(canonical(row.variant)).second) << s.name << " " << row.label;
    }
  }
}

/// Every published kernel on every chip that could run it, with each of the changes; spelled so that a user can ask for
/// any of them.
TEST(Variant, VerificationVariantsAreDistinctAndSound) {
  std::set<std::string> spellings;
  for (const auto& v : verification_variants()) {
    EXPECT_FALSE(contradiction(v)) << canonical(v);
    EXPECT_EQ(parse_variant(canonical(v)), v);
    EXPECT_TRUE(spellings.insert(canonical(v)).second) << canonical(v);
  }
  for (const char* name : {"sage2-4b@hopper", "sage2-8b@hopper", "sage2-8b", "sage1@ampere", "fa3-fp8",
                           "sage2-4b@hopper:smooth_q=off", "sage2-8b@hopper:smooth_q=on", "sage2-8b@hopper:smooth_v=on",
                           "sage2-8b@hopper:qk_gran=per_warp", "sage2-4b:smooth_v=on"}) {
    EXPECT_TRUE(spellings.contains(canonical(parse_variant(name)))) << name;
  }
}

TEST(Variant, OneSpellingForOneMeaning) {
  EXPECT_EQ(canonical(parse_variant("sage2-4b:qk=int8,smooth_q=off")), "sage2-8b");
  EXPECT_EQ(canonical(parse_variant("sage2-8b:smooth_q=on,qk=int4")), "sage2-4b");
  EXPECT_EQ(canonical(parse_variant("int4:smooth_k=on,smooth_q=on,qk_gran=per_thread")), "sage2-4b");
  EXPECT_EQ(canonical(parse_variant("sage2-4b@ada")), "sage2-4b");
  // Settings that cannot matter do not make a difference: integers are summed exactly on every chip.
  EXPECT_EQ(parse_variant("sage2-4b-v1:qk=fp16").qk_gran, parse_variant("sage2-4b:qk=fp16").qk_gran);
  EXPECT_EQ(parse_variant("sage2-4b:pv_accum=exact"),
            parse_variant("sage2-4b@hopper:pv_accum=exact,geometry=128x64w32"));
}

TEST(Variant, ArchitecturesBringTheirKernel) {
  const auto hopper = parse_variant("sage2-8b@hopper");
  EXPECT_EQ(hopper.arch, Arch::hopper);
  EXPECT_EQ(hopper.geometry, (Geometry{64, 128, 16}));
  const auto ampere = parse_variant("sage2-4b@ampere");
  EXPECT_EQ(ampere.p, Format::fp16);
  EXPECT_EQ(ampere.v, Format::fp16);
  EXPECT_EQ(ampere.pv_accum, PvAccum::fp32);
  EXPECT_EQ(parse_variant("fa3-fp8@hopper"), parse_variant("fa3-fp8"));
}

TEST(Variant, RefusesWithTheReason) {
  EXPECT_NE(why_refused("sage3").find("no preset 'sage3'"), std::string::npos);
  EXPECT_NE(why_refused("sage2-4b@volta").find("no architecture 'volta'"), std::string::npos);
  EXPECT_NE(why_refused("sage2-4b:bits=3").find("no key 'bits'"), std::string::npos);
  EXPECT_NE(why_refused("sage2-4b:qk=int9").find("'qk' cannot be 'int9'"), std::string::npos);
  EXPECT_NE(why_refused("sage2-4b:qk").find("expected key=value"), std::string::npos);
  EXPECT_NE(why_refused("sage2-4b:").find("nothing follows"), std::string::npos);
  EXPECT_NE(why_refused("sage2-4b:qk=int8,").find("nothing follows"), std::string::npos);
  EXPECT_NE(why_refused("sage2-4b:qk=int8,qk=int4").find("given twice"), std::string::npos);
  EXPECT_NE(why_refused("").find("no preset"), std::string::npos);
  EXPECT_NE(why_refused("fp16:qk_gran=per_block").find("no scales"), std::string::npos);
  EXPECT_NE(why_refused("sage2-8b:qk_accum=fp32").find("summed exactly"), std::string::npos);
  EXPECT_NE(why_refused("exact:arch=hopper").find("no tensor core"), std::string::npos);
  EXPECT_NE(why_refused("sage2-8b:arch=ampere").find("Ampere"), std::string::npos);
  EXPECT_NE(why_refused("sage2-8b:p=fp16").find("no tensor core multiplies"), std::string::npos);
  EXPECT_NE(why_refused("sage2-8b:p=int8,v=int8,pv_accum=fp32").find("INT8"), std::string::npos);
  EXPECT_NE(why_refused("sage2pp-8b:p=e5m2,v=e5m2").find("overflows"), std::string::npos);
  EXPECT_NE(why_refused("sage2-8b:v_gran=per_block,pv_accum=fp32").find("afresh"), std::string::npos);
  EXPECT_NE(why_refused("sage2-8b:geometry=100x64w32").find("multiple of 16"), std::string::npos);
  EXPECT_NE(why_refused("sage2-8b:geometry=128x48w32").find("multiple of 32"), std::string::npos);
  EXPECT_NE(why_refused("sage2-8b:geometry=wide").find("cannot be 'wide'"), std::string::npos);
  EXPECT_NE(why_refused("sage2-8b:q=int8,k=e4m3").find("integers"), std::string::npos);
}

TEST(Variant, ListsSplitAtVariants) {
  const std::vector<std::string> expected{"sage2-4b", "int4:smooth_k=on,p=fp16,v=fp16", "sage2-8b@hopper"};
  EXPECT_EQ(split_variants("sage2-4b,int4:smooth_k=on,p=fp16,v=fp16,sage2-8b@hopper"), expected);
  EXPECT_EQ(split_variants(""), std::vector<std::string>{""});
}

/// Any combination of values either parses and round-trips, or is refused in one sentence.
TEST(Variant, RandomCombinationsRoundTripOrAreRefused) {
  std::mt19937_64 random(7);
  int accepted = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text = presets()[random() % presets().size()].name;
    std::string separator = ":";
    for (const auto& key : variant_keys()) {
      if (random() % 4 != 0) continue;
      const auto& value = key.values[random() % key.values.size()];
      if (value == "QxKwW") continue;
      text += separator + key.name + "=" + value;
      separator = ",";
    }
    Variant v;
    try {
      v = parse_variant(text);
    } catch (const UsageError&) {
      continue;
    }
    ++accepted;
    const auto spelling = canonical(v);
    EXPECT_EQ(parse_variant(spelling), v) << text << " -> " << spelling;
    EXPECT_EQ(canonical(parse_variant(spelling)), spelling);
  }
  EXPECT_GT(accepted, 300);
}

TEST(Variant, StagesOfAVariant) {
  const auto suite = stages_suite(parse_variant("sage2-8b"));
  ASSERT_EQ(suite.rows.size(), 11U);
  EXPECT_EQ(suite.rows[0].label, "all");
  EXPECT_EQ(suite.rows[1].label, "only q");
  EXPECT_EQ(suite.rows[1].variant.q, Format::int8);
  EXPECT_EQ(suite.rows[1].variant.k, Format::exact);
  EXPECT_EQ(suite.rows[5].label, "only accum");
  EXPECT_EQ(suite.rows[5].variant.pv_accum, PvAccum::fp32_fp32);
  EXPECT_EQ(suite.rows[10].label, "without accum");
  EXPECT_EQ(suite.rows[10].variant.pv_accum, PvAccum::exact);
  EXPECT_EQ(find_suites("stages:sage2-8b")[0].rows.size(), 11U);
  EXPECT_THROW((void)find_suites("nosuch"), UsageError);
}

}  // namespace
}  // namespace sage2
