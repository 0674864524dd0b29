#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include "datasets/capture_writer.hpp"
#include "nlohmann/json.hpp"
#include "reports/record.hpp"
#include "tests/datasets/capture_files.hpp"
#include "tests/reference/problems.hpp"
#include "tests/reports/python.hpp"

/// The program as a user types it: exit codes, messages, run folders.
namespace sage2 {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;

const std::string kSample = std::string(SAGE2_SOURCE_DIR) + "/datasets/samples/lm.h5";

test::Outcome program(std::vector<std::string> words) {
  words.insert(words.begin(), SAGE2_EVAL_BINARY);
  return test::run(words);
}

int exit_code(const test::Outcome& outcome) {
  return WIFEXITED(outcome.status) ? WEXITSTATUS(outcome.status) : -1;
}

bool says(const test::Outcome& outcome, const std::string& text) {
  return outcome.output.find(text) != std::string::npos;
}

/// A capture of two layers and two samples; `spoil` may change a head before it is written.
template <class Spoil>
void write_capture(const fs::path& file, const Shape& shape, const Spoil& spoil) {
  CaptureWriter writer(file, {"toy", "test", 0});
  testing::Random random(3);
  for (int layer = 0; layer < 2; ++layer) {
    for (int sample = 0; sample < 2; ++sample) {
      CellInfo cell;
      cell.id = {layer, 0, sample};
      cell.layer_name = "toy";
      cell.shape = shape;
      cell.sm_scale = 0.125F;
      writer.begin_cell(cell);
      for (const auto name : {TensorName::q, TensorName::k, TensorName::v}) {
        const bool q = name == TensorName::q;
        for (std::size_t h = 0; h < (q ? shape.q_heads : shape.kv_heads); ++h) {
          auto m = testing::random_matrix(q ? shape.q_len : shape.kv_len, shape.head_dim, random);
          spoil(cell.id, name, m);
          writer.write_head(name, 0, h, m);
        }
      }
    }
  }
  writer.finish();
}

constexpr auto kNoSpoil = [](const CellId&, TensorName, Matrix&) {};

/// Records by key, without what differs between runs (time).
std::map<std::string, std::string> records_of(const fs::path& run) {
  std::map<std::string, std::string> all;
  for (auto r : read_run(run).records) {
    r.seconds = 0;
    all[r.key] = nlohmann::json(r).dump();
  }
  return all;
}

TEST(Eval, WritesRecordsAndPrintsTables) {
  const TempDir dir;
  write_capture(dir / "toy.h5", {1, 4, 2, 40, 70, 64}, kNoSpoil);
  const auto out = program({"eval", dir / "toy.h5", "--variants", "sage2-4b,int4:smooth_k=on", "--suite", "smoothing",
                            "--out", dir / "run"});
  ASSERT_EQ(exit_code(out), 0) << out.output;
  EXPECT_TRUE(says(out, "smooth Q+K")) << out.output;
  const auto run = read_run((dir / "run"));
  EXPECT_EQ(run.records.size(), 4U * 7U);  // six rows of the suite, one of them asked for by name as well
  for (const auto& r : run.records) {
    EXPECT_EQ(r.heads.size(), 4U);
    EXPECT_EQ(r.shape.kv_len, 70);
    EXPECT_TRUE(r.metrics.cos_sim > 0.9 && r.metrics.cos_sim <= 1) << r.variant;
    EXPECT_EQ(r.counts.p_total, 4U * 40U * 70U);
    EXPECT_EQ(r.sums.count, 4.0 * 40 * 64);
  }
  for (const auto& line : {out.output}) {
    std::istringstream lines(line);
    for (std::string l; std::getline(lines, l);) EXPECT_LE(l.size(), 80U) << l;
  }
}

TEST(Eval, ContinuesAKilledRunWithTheSameRecords) {
  const TempDir dir;
  write_capture(dir / "toy.h5", {1, 2, 2, 64, 64, 64}, kNoSpoil);
  const std::vector<std::string> words{"eval", dir / "toy.h5", "--suite", "granularity", "--out"};
  const auto with = [&](const std::string& folder) {
    auto all = words;
    all.push_back(dir / folder);
    return all;
  };
  ASSERT_EQ(exit_code(program(with("whole"))), 0);
  ASSERT_EQ(exit_code(program(with("cut"))), 0);
  // Cut the records in the middle of a line, as a kill would.
  const auto file = dir / "cut/records.jsonl";
  const auto size = fs::file_size(file);
  fs::resize_file(file, size * 2 / 3);
  const auto left = read_run((dir / "cut"));
  EXPECT_TRUE(left.truncated);
  EXPECT_LT(left.records.size(), 20U);
  const auto again = program(with("cut"));
  ASSERT_EQ(exit_code(again), 0) << again.output;
  EXPECT_TRUE(says(again, "are there already"));
  EXPECT_EQ(records_of(dir / "cut"), records_of(dir / "whole"));
  EXPECT_EQ(records_of(dir / "cut").size(), 20U);
}

TEST(Eval, ShardsMergeIntoTheWhole) {
  const TempDir dir;
  write_capture(dir / "toy.h5", {1, 1, 1, 33, 65, 64}, kNoSpoil);
  const std::vector<std::string> words{"eval", dir / "toy.h5", "--variants", "sage2-8b,fp16", "--out"};
  auto all = words;
  all.insert(all.end(), {dir / "whole"});
  ASSERT_EQ(exit_code(program(all)), 0);
  std::size_t parts = 0;
  for (const std::string i : {"0", "1"}) {
    auto part = words;
    part.insert(part.end(), {dir / ("part" + i), "--shard", i + "/2"});
    const auto out = program(part);
    ASSERT_EQ(exit_code(out), 0) << out.output;
    parts += read_run((dir / ("part" + i))).records.size();
  }
  EXPECT_EQ(parts, 8U);
  ASSERT_EQ(exit_code(program({"merge", dir / "part0", dir / "part1", dir / "part0", "--out", dir / "both"})), 0);
  EXPECT_EQ(records_of(dir / "both"), records_of(dir / "whole"));
  EXPECT_EQ(exit_code(program({"eval", dir / "toy.h5", "--variants", "fp16", "--out", dir / "x", "--shard", "2/2"})),
            2);
}

TEST(Eval, OneBadCellDoesNotEndTheRun) {
  const TempDir dir;
  write_capture(dir / "toy.h5", {1, 1, 1, 20, 20, 64}, [](const CellId& id, TensorName name, Matrix& m) {
    if (id == CellId{0, 0, 1} && name == TensorName::v) m(3, 5) = NAN;
    if (id == CellId{1, 0, 0} && name == TensorName::q) m(7, 0) = INFINITY;
  });
  const auto out = program({"eval", dir / "toy.h5", "--variants", "sage2-8b", "--out", dir / "run"});
  EXPECT_EQ(exit_code(out), 3) << out.output;
  EXPECT_TRUE(says(out, "token 3, channel 5")) << out.output;
  EXPECT_TRUE(says(out, "2 of 4 cells could not be evaluated")) << out.output;
  const auto run = read_run((dir / "run"));
  EXPECT_EQ(run.records.size(), 2U);
  EXPECT_EQ(run.errors.size(), 2U);
}

TEST(Eval, SampledQueriesEstimateTheWhole) {
  const TempDir dir;
  write_capture(dir / "toy.h5", {1, 2, 1, 400, 300, 64}, kNoSpoil);
  ASSERT_EQ(exit_code(program({"eval", dir / "toy.h5", "--variants", "sage2-4b", "--out", dir / "all"})), 0);
  ASSERT_EQ(exit_code(program({"eval", dir / "toy.h5", "--variants", "sage2-4b", "--out", dir / "some", "--queries",
                               "100", "--seed", "5"})),
            0);
  const auto all = read_run((dir / "all")).records;
  const auto some = read_run((dir / "some")).records;
  ASSERT_EQ(all.size(), some.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    ASSERT_TRUE(some[i].queries);
    EXPECT_EQ(some[i].queries->count, 100);
    ASSERT_TRUE(some[i].metrics.rel_l1_se);
    // Five standard errors: once in a million by chance, and the seed is fixed.
    EXPECT_TRUE(std::fabs(some[i].metrics.rel_l1 - all[i].metrics.rel_l1) <= 5 * *some[i].metrics.rel_l1_se);
    EXPECT_TRUE(std::fabs(some[i].metrics.rmse - all[i].metrics.rmse) <= 5 * *some[i].metrics.rmse_se);
    EXPECT_NE(some[i].key, all[i].key);
  }
}

/// The number of threads must not change a bit of any record.
TEST(Eval, ThreadsDoNotChangeRecords) {
  const TempDir dir;
  write_capture(dir / "toy.h5", {1, 1, 1, 600, 200, 64}, kNoSpoil);
  for (const std::string threads : {"1", "3"}) {
    ASSERT_EQ(exit_code(program({"eval", dir / "toy.h5", "--variants", "sage2-4b,sage2pp-8b", "--threads", threads,
                                 "--out", dir / threads})),
              0);
  }
  EXPECT_EQ(records_of(dir / "1"), records_of(dir / "3"));
}

TEST(Eval, RefusesWithOneSentence) {
  const TempDir dir;
  write_capture(dir / "a.h5", {1, 1, 1, 10, 10, 64}, kNoSpoil);
  write_capture(dir / "b.h5", {1, 1, 1, 12, 10, 64}, kNoSpoil);
  std::ofstream(dir / "text.h5") << "this is no HDF5 file";
  ASSERT_EQ(exit_code(program({"eval", dir / "a.h5", "--variants", "fp16", "--out", dir / "run"})), 0);
  struct Case {
    std::vector<std::string> words;
    int code;
    std::string text;
  };
  const std::vector<Case> cases{
      {{"eval", dir / "a.h5", "--variants", "sage9", "--out", dir / "x"}, 2, "no preset 'sage9'"},
      {{"eval", dir / "a.h5", "--suite", "nosuch", "--out", dir / "x"}, 2, "no suite 'nosuch'"},
      {{"eval", dir / "a.h5", "--out", dir / "x"}, 2, "nothing to evaluate"},
      {{"eval", dir / "a.h5", "--variants", "fp16", "--layers", "7", "--out", dir / "x"}, 2, "layers 0,1"},
      {{"eval", dir / "a.h5", "--variants", "fp16", "--layers", "1-", "--out", dir / "x"}, 2, "--layers"},
      {{"eval", dir / "a.h5", "--variants", "fp16", "--heads", "9", "--out", dir / "x"}, 3, "none of the heads 9"},
      {{"eval", dir / "none.h5", "--variants", "fp16", "--out", dir / "x"}, 3, "none.h5"},
      {{"eval", dir / "text.h5", "--variants", "fp16", "--out", dir / "x"}, 3, "text.h5"},
      {{"eval", dir / "b.h5", "--variants", "fp16", "--out", dir / "run"}, 2, "another run"},
      {{"eval", dir / "a.h5", "--variants", "fp16", "--queries", "5", "--out", dir / "run"}, 2, "another run"},
      {{"eval", dir / "a.h5", "--variants", "fp16", "--out", "/proc/nowhere"}, 3, "cannot write"},
      {{"eval", dir / "a.h5", "--variants", "fp16", "--out", dir / "a.h5"}, 3, "cannot write"},
      {{"eval", dir / "a.h5", "--out", dir / "x", "--nonsense"}, 2, "--nonsense"},
      {{"merge", dir / "nothing", "--out", dir / "x"}, 3, "no run.json"},
      {{"nonsense"}, 2, "subcommand"},
      {{}, 2, "subcommand"},
  };
  for (const auto& c : cases) {
    const auto out = program(c.words);
    EXPECT_EQ(exit_code(out), c.code) << out.output;
    EXPECT_TRUE(says(out, c.text)) << out.output;
  }
  // Files that are not runs stay untouched.
  fs::create_directory(dir / "mine");
  std::ofstream(dir / "mine/notes.txt") << "precious";
  EXPECT_EQ(exit_code(program({"eval", dir / "a.h5", "--variants", "fp16", "--out", dir / "mine"})), 2);
  EXPECT_FALSE(fs::exists(dir / "mine/run.json"));
}

/// A limit on the size of files stands in for a full disk: writing fails in the same place, with another errno.
TEST(Eval, AFullDiskIsSaidAndNothingFinishedIsLost) {
  const TempDir dir;
  write_capture(dir / "toy.h5", {1, 8, 8, 16, 16, 64}, kNoSpoil);
  const auto command = "trap '' XFSZ; ulimit -f 30; exec " + std::string(SAGE2_EVAL_BINARY) + " eval " +
                       (dir / "toy.h5").string() + " --suite all --out " + (dir / "run").string();
  const auto out = test::run({"bash", "-c", command});
  EXPECT_EQ(exit_code(out), 3) << out.output;
  EXPECT_TRUE(says(out, "records.jsonl: cannot write")) << out.output;
  EXPECT_GT(read_run((dir / "run")).records.size(), 0U);
}

TEST(Eval, JsonIsTheSameSummary) {
  const TempDir dir;
  const auto out =
      program({"eval", kSample, "--variants", "sage2-4b", "--layers", "1", "--out", dir / "run", "--json"});
  ASSERT_EQ(exit_code(out), 0);
  const auto json = nlohmann::json::parse(out.output.substr(out.output.find('{')));
  const auto& row = json.at("models").at(0).at("suites").at(0).at("rows").at(0);
  EXPECT_EQ(row.at("variant"), "sage2-4b");
  const auto records = read_run((dir / "run")).records;
  EXPECT_EQ(row.at("worst").at("cos_sim").get<double>(), records.at(0).metrics.cos_sim);
}

/// A map runs in each cell what it says, and the evaluation of the map is that of the cells' variants.
TEST(Eval, EvaluatesAMap) {
  const TempDir dir;
  write_capture(dir / "toy.h5", {1, 1, 1, 64, 64, 64}, kNoSpoil);
  ASSERT_EQ(exit_code(program({"eval", dir / "toy.h5", "--variants", "sage2-4b,sage2-8b", "--out", dir / "run"})), 0);
  const auto ranked = program({"rank", dir / "run", "--fraction", "0.5", "--out", dir / "map.json", "--json"});
  ASSERT_EQ(exit_code(ranked), 0) << ranked.output;
  const auto out = program({"eval", dir / "toy.h5", "--map", dir / "map.json", "--out", dir / "mapped", "--json"});
  ASSERT_EQ(exit_code(out), 0) << out.output;
  const auto json = nlohmann::json::parse(out.output.substr(out.output.find('{')));
  const auto& suites = json.at("models").at(0).at("suites");
  const auto& rows = suites.back().at("rows");
  EXPECT_EQ(suites.back().at("name"), "map");
  EXPECT_EQ(rows.at(0).at("cells"), 2);
  std::set<std::string> used;
  for (const auto& r : read_run((dir / "mapped")).records) used.insert(r.variant);
  EXPECT_EQ(used, (std::set<std::string>{"sage2-4b", "sage2-8b"}));
}

/// Against plain NumPy that shares no code, on real tensors. The quantisers agree bit for bit; the softmax is FP64
/// there and FP32 here, so a code of P close to a tie may differ. One code in 10^4 that differs by its full step moves
/// the error energy by 10^-4 of itself; the bounds leave a factor of twenty.
TEST(Eval, AgreesWithPlainNumpyOnRealTensors) {
  const auto python = test::python_with("numpy, h5py");
  if (python.empty()) GTEST_SKIP() << "no Python with numpy and h5py";
  const TempDir dir;
  const auto script = std::string(SAGE2_SOURCE_DIR) + "/tests/python/plain_numpy.py";
  const std::pair<std::string, std::string> captures[] = {{"dit.h5", "0,2"}, {"lm.h5", "1,4"}};
  for (const auto& [file, layers] : captures) {
    const auto capture = std::string(SAGE2_SOURCE_DIR) + "/datasets/samples/" + file;
    const auto plain = test::run({python, script, capture, "--layers", layers});
    ASSERT_EQ(plain.status, 0) << plain.output;
    const auto expected = nlohmann::json::parse(plain.output);
    ASSERT_FALSE(expected.empty());
    std::string variants;
    for (const auto& [name, value] : expected.begin()->items()) variants += (variants.empty() ? "" : ",") + name;
    const auto out = program({"eval", capture, "--layers", layers, "--variants", variants, "--out", dir / file});
    ASSERT_EQ(exit_code(out), 0) << out.output;
    std::size_t compared = 0;
    for (const auto& r : read_run((dir / file)).records) {
      const auto& e = expected.at(fmt::format("{} {} {}", r.layer, r.timestep, r.sample)).at(r.name);
      EXPECT_TRUE(std::fabs((1 - r.metrics.cos_sim) / (1 - e.at(0).get<double>()) - 1) <= 4e-3)
          << file << " " << r.variant;
      EXPECT_TRUE(std::fabs(r.metrics.rel_l1 / e.at(1).get<double>() - 1) <= 2e-3) << file << " " << r.variant;
      EXPECT_TRUE(std::fabs(r.metrics.rmse / e.at(2).get<double>() - 1) <= 2e-3) << file << " " << r.variant;
      ++compared;
    }
    EXPECT_EQ(compared, expected.size() * 5);
  }
}

}  // namespace
}  // namespace sage2
