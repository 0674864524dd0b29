#include "reports/cells.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "datasets/error.hpp"
#include "reports/score.hpp"
#include "tests/reports/toy_run.hpp"

namespace sage2 {
namespace {

using test::ids;
using test::ToyRun;

const std::vector<std::string> kBoth{"sage2-4b", "sage2-8b"};

double by_sample(int layer, int timestep, int sample, std::size_t variant) {
  return 0.01 * (1 + layer) + 0.001 * timestep + 0.0001 * sample - 0.005 * static_cast<double>(variant);
}

CellTable pool(const test::Runs& runs) {
  return pool_cells(runs, ids(kBoth));
}

/// The sentence of the DataError that pooling ends with.
std::string refusal(const test::Runs& runs) {
  try {
    (void)pool(runs);
  } catch (const DataError& e) {
    return e.what();
  }
  return "accepted";
}

TEST(Cells, AveragesSamplesAndKeepsOrder) {
  ToyRun toy;
  toy.samples = 3;
  const auto table = pool({toy.make(by_sample)});
  ASSERT_EQ(table.cells.size(), 6U);
  EXPECT_EQ(table.units, 3U);
  EXPECT_EQ(table.cells[4].layer, 1);
  EXPECT_EQ(table.cells[4].timestep, 5);
  const auto means = mean_over_samples(table, evaluate(table, [](const Observation& o) { return o.rel_l1; }));
  // Mean of three: 0.02 + 0.005 + 0.0001 (0 + 1 + 2) / 3, minus 0.005 for the fallback.
  EXPECT_NEAR(means.at(4, 0), 0.0251, 1e-15);
  EXPECT_NEAR(means.at(4, 1), 0.0201, 1e-15);
}

TEST(Cells, WeightsCountDraws) {
  ToyRun toy;
  toy.samples = 3;
  const auto table = pool({toy.make(by_sample)});
  const auto rel_l1 = evaluate(table, [](const Observation& o) { return o.rel_l1; });
  const auto means = mean_over_samples(table, rel_l1, std::vector<double>{0, 1, 2});
  EXPECT_NEAR(means.at(0, 0), 0.01 + 0.0001 * 5 / 3, 1e-15);
}

TEST(Cells, CountsARecordOnceHoweverOftenItIsGiven) {
  ToyRun toy;
  toy.samples = 2;
  const auto run = toy.make(by_sample);
  auto renamed = run;  // the same file under another name
  for (auto& r : renamed.records) r.capture = "copy.h5";
  renamed.info.captures[0].name = "copy.h5";
  const auto table = pool({run, run, renamed});
  EXPECT_EQ(table.duplicates, 2 * run.records.size());
  EXPECT_EQ(table.cells[0].samples(), 2U);
  EXPECT_EQ(table.units, 2U);
}

TEST(Cells, PoolsVariantsFromSeveralRuns) {
  ToyRun base;
  base.variants = {"sage2-4b"};
  ToyRun fallback;
  fallback.variants = {"sage2-8b"};
  const auto table = pool({base.make(by_sample), fallback.make(by_sample)});
  EXPECT_EQ(table.cells.size(), 6U);
  EXPECT_EQ(table.units, 1U);
}

TEST(Cells, TellsCapturesOfOneNameApart) {
  ToyRun first;
  ToyRun second;
  second.fingerprint = "f1";  // another prompt, saved under the same file name in another folder
  const auto table = pool({first.make(by_sample), second.make(by_sample)});
  EXPECT_EQ(table.units, 2U);
  EXPECT_EQ(table.cells[0].samples(), 2U);
}

TEST(Cells, JoinsPartsOfOneCapture) {
  ToyRun first;
  first.layers = {0};
  ToyRun second;
  second.layers = {1};
  second.capture = "part2.h5";
  second.fingerprint = "f1";
  const auto table = pool({first.make(by_sample), second.make(by_sample)});
  EXPECT_EQ(table.units, 1U) << "sample 0 of both files is the same draw";
}

TEST(Cells, KeepsBranchesOfOnePromptTogether) {
  ToyRun toy;
  toy.samples = 4;
  auto run = toy.make(by_sample);
  for (auto& r : run.records) {
    r.sample_name = r.sample < 2 ? "a cat" : "a dog";
    r.cfg_branch = r.sample % 2 == 0 ? "cond" : "uncond";
  }
  const auto table = pool({run});
  EXPECT_EQ(table.units, 2U);
  EXPECT_EQ(table.cells[0].samples(), 4U);
}

TEST(Cells, RefusesWhatDoesNotMatch) {
  const ToyRun toy;
  const auto good = toy.make(by_sample);
  const auto changed = [&](const std::function<void(Record&)>& change) {
    auto run = good;
    change(run.records.back());  // layer 1, timestep 10, sage2-8b
    return refusal({run});
  };
  EXPECT_EQ(refusal({good}), "accepted");
  auto missing = good;
  missing.records.pop_back();
  EXPECT_EQ(refusal({missing}),
            "runs/toy.h5: layer 1, timestep 10, sample 0 of toy.h5: has a record of variant sage2-4b but none of "
            "sage2-8b; evaluate both on the same captures, to the end");
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(changed([&](Record& r) {
              r.metrics.rel_l1 = nan;
              r.counts.nan = 7;
            }),
            "runs/toy.h5: layer 1, timestep 10, sample 0 of toy.h5: rel_l1 of variant sage2-8b is nan, expected a "
            "finite number (7 values of its output are NaN or infinite)");
  EXPECT_NE(changed([](Record& r) { r.counts.inf = 1; }).find("1 values of the output of variant sage2-8b"),
            std::string::npos);
  EXPECT_NE(changed([](Record& r) {
              r.queries = QuerySubset{16, 1};
            }).find("different heads or query rows"),
            std::string::npos);

  const auto other_capture = [&](const std::function<void(Record&)>& change) {
    ToyRun second;
    second.capture = "other.h5";
    second.fingerprint = "f1";
    auto run = second.make(by_sample);
    for (auto& r : run.records) change(r);
    return refusal({good, run});
  };
  EXPECT_EQ(other_capture([](Record&) {}), "accepted");
  EXPECT_NE(other_capture([](Record& r) { r.model = "another"; }).find("a map is made for one model"),
            std::string::npos);
  EXPECT_NE(other_capture([](Record& r) { r.layer_name = "x"; }).find("the layer is named \"x\""), std::string::npos);
  EXPECT_NE(other_capture([](Record& r) { r.shape.head_dim = 64; }).find("head dim 64"), std::string::npos);
  EXPECT_EQ(other_capture([](Record& r) { r.shape.q_len = 128; }), "accepted") << "prompts differ in length";

  auto again = good;  // the same sample with other rows: neither a duplicate nor another sample
  for (auto& r : again.records) r.key += "/rows";
  EXPECT_NE(refusal({good, again}).find("two different records"), std::string::npos);
  auto ambiguous = good;
  ambiguous.info.captures.push_back(ambiguous.info.captures[0]);
  ambiguous.info.captures[1].fingerprint = "f1";
  EXPECT_NE(refusal({ambiguous}).find("two different captures named \"toy.h5\""), std::string::npos);
}

TEST(Cells, FindsVariantsByNameAndSpelling) {
  const ToyRun toy;
  test::Runs runs{toy.make(by_sample)};
  for (auto& r : runs[0].records) r.variant = "canonical:" + r.name;
  EXPECT_EQ(find_variant(runs, "sage2-4b").variant, "canonical:sage2-4b");
  EXPECT_EQ(find_variant(runs, "canonical:sage2-8b").name, "sage2-8b");
  try {
    (void)find_variant(runs, "sage3");
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_STREQ(e.what(), "no run has records of variant \"sage3\"; there are: sage2-4b, sage2-8b");
  }
  runs[0].records[0].variant = "another";
  EXPECT_THROW((void)find_variant(runs, "sage2-4b"), DataError);
}

}  // namespace
}  // namespace sage2
