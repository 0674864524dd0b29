#include "harness/rank.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "datasets/error.hpp"
#include "harness/evaluate.hpp"
#include "harness/run_writer.hpp"
#include "harness/version.hpp"
#include "reports/map.hpp"

/// From the bundled capture to a map, and back to an evaluation that uses the map.
namespace sage2 {
namespace {

namespace fs = std::filesystem;

/// Enough rows to tell hard cells from easy ones, few enough to take no time; the same rows for every variant.
EvaluationPlan few_rows() {
  EvaluationPlan plan;
  plan.queries = 64;
  plan.seed = 7;
  return plan;
}

NamedVariant named(const std::string& text) {
  const auto variant = parse_variant(text);
  return {text, canonical(variant), variant};
}

class RankCommand : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = fs::path(testing::TempDir()) / ("sage2_rank_test_" + std::to_string(getpid()));  // tests run side by side
    fs::remove_all(folder_);
    const CaptureReader reader(capture());
    auto info = machine_info();
    info.captures.push_back({"dit.h5", capture().string(), file_fingerprint(capture()), reader.model(), "", 0});
    RunWriter run(folder_ / "run", info);
    for (const auto& id : reader.cells()) {
      const auto cell = reader.describe(id);
      for (auto& record : evaluate_cell(reader, cell, {named("sage2-4b"), named("sage2-8b"), named("fp16")}, few_rows(),
                                        content_hash(reader, cell))) {
        run.add(record);
      }
    }
  }
  static void TearDownTestSuite() { fs::remove_all(folder_); }
  static fs::path capture() { return fs::path(SAGE2_SOURCE_DIR) / "datasets/samples/dit.h5"; }

  static RankOptions options() {
    RankOptions o;
    o.runs = {(folder_ / "run").string()};
    return o;
  }
  /// What is printed.
  static std::string rank(const RankOptions& o) {
    testing::internal::CaptureStdout();
    try {
      EXPECT_EQ(run_rank(o), 0);
    } catch (...) {
      (void)testing::internal::GetCapturedStdout();
      throw;
    }
    return testing::internal::GetCapturedStdout();
  }
  static std::string refusal(const RankOptions& o) {
    try {
      (void)rank(o);
    } catch (const Error& e) {
      return e.what();
    }
    return "accepted";
  }

  static fs::path folder_;
};

fs::path RankCommand::folder_;

TEST_F(RankCommand, SendsTheHardLayerToTheFallback) {
  auto o = options();
  o.fraction = 1.0 / 3;
  o.out = (folder_ / "map.json").string();
  const auto text = rank(o);
  EXPECT_NE(text.find(". sage2-4b (6)   # sage2-8b (3)"), std::string::npos) << text;
  std::ostringstream list;
  list << std::ifstream(folder_ / "int8_cells.txt").rdbuf();
  EXPECT_EQ(list.str(), "2 0\n2 12\n2 24\n");
}

TEST_F(RankCommand, PredictsWhatAnEvaluationOfTheMapFinds) {
  for (const bool budget : {false, true}) {
    auto o = options();
    o.out = (folder_ / "map.json").string();
    if (budget) {
      o.choices = {"sage2-4b", "sage2-8b", "fp16"};
      o.budget_ops = 1.1;
      o.metric = "rmse";
    } else {
      o.fraction = 0.5;
    }
    (void)rank(o);
    const auto map = read_map(o.out);
    const CaptureReader reader(capture());
    double cos_sim = 0;
    double rel_l1 = 0;
    double rmse = 0;
    for (const auto& id : reader.cells()) {
      const auto cell = reader.describe(id);
      const auto variant = named(look_up(map, id.layer, id.timestep).variant);
      const auto records = evaluate_cell(reader, cell, {variant}, few_rows(), content_hash(reader, cell));
      cos_sim += records.at(0).metrics.cos_sim / 9;
      rel_l1 += records.at(0).metrics.rel_l1 / 9;
      rmse += records.at(0).metrics.rmse / 9;
    }
    // The same numbers: only the order of nine additions differs.
    EXPECT_NEAR(map.predicted.at("mean_cos_sim").get<double>(), cos_sim, 1e-14);
    EXPECT_NEAR(map.predicted.at("mean_rel_l1").get<double>(), rel_l1, 1e-14);
    EXPECT_NEAR(map.predicted.at("mean_rmse").get<double>(), rmse, 1e-14);
  }
}

TEST_F(RankCommand, MapSaysWhereItComesFrom) {
  auto o = options();
  o.out = (folder_ / "map.json").string();
  (void)rank(o);
  const auto p = read_map(o.out).provenance;
  EXPECT_EQ(p.at("runs").at(0).at("captures").at(0).at("fingerprint"), file_fingerprint(capture()));
  EXPECT_EQ(p.at("devices"), nlohmann::json({"cpu (emulated)"}));
  EXPECT_FALSE(p.at("commit").get<std::string>().empty());
}

TEST_F(RankCommand, ExplainsACell) {
  auto o = options();
  o.explain = "2,24";
  const auto text = rank(o);
  EXPECT_EQ(text.rfind("Layer 2 (blocks.2.attn), timestep 24 runs sage2-8b\n", 0), 0U) << text;
  o.explain = "2;24";
  EXPECT_EQ(refusal(o), "--explain: expected LAYER,TIMESTEP, found \"2;24\"");
}

TEST_F(RankCommand, UnderstandsAnySpellingOfAVariant) {
  auto o = options();
  o.base = canonical(parse_variant("sage2-4b"));
  o.fallback = "sage2-8b:smooth_k=on";  // what the preset means anyway
  EXPECT_NE(rank(o).find("sage2-8b"), std::string::npos);
}

TEST_F(RankCommand, RefusesWhatMakesNoSense) {
  auto o = options();
  o.fraction = 1.5;
  EXPECT_EQ(refusal(o), "the fraction of cells in the fallback is 1.5, expected 0 to 1");
  o = options();
  o.fallback = "sage1";
  EXPECT_EQ(refusal(o), "no run has records of variant \"sage1\"; there are: fp16, sage2-4b, sage2-8b");
  o = options();
  o.fallback = "sage2-4b";
  EXPECT_EQ(refusal(o), "base and fallback are the same variant, sage2-4b");
  o = options();
  o.holdout = true;
  EXPECT_NE(refusal(o).find("a hold-out needs at least two independent samples, but the runs hold 1"),
            std::string::npos);
  o = options();
  o.holdout_runs = o.runs;
  EXPECT_NE(refusal(o).find("18 records of the hold-out run are also in the runs"), std::string::npos);
  o = options();
  o.fraction = 0.3;
  o.max_error = 0.1;
  EXPECT_EQ(refusal(o), "--fraction and --max-error: give one rule");
  o = options();
  o.budget_ms = 1;
  EXPECT_EQ(refusal(o), "--budget-ms needs measured times: give --bench FILE");
  o = options();
  o.choices = {"sage2-4b", "sage2-8b", "fp16"};
  EXPECT_EQ(refusal(o), "more than two --choices need a budget: --budget-ms, --budget-ops or --max-error");
  o = options();
  o.budget_ops = 0.5;
  EXPECT_NE(refusal(o).find("no map keeps a budget of"), std::string::npos);
  o = options();
  o.runs = {(folder_ / "nowhere").string()};
  EXPECT_NE(refusal(o).find("not a run folder"), std::string::npos);
}

}  // namespace
}  // namespace sage2
