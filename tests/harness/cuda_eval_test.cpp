#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "reports/record.hpp"
#include "tests/datasets/capture_files.hpp"
#include "tests/reports/python.hpp"
#ifdef SAGE2_HAS_CUDA
#include "kernels/device_info.hpp"
#endif

/// The records of the GPU beside those of the CPU. Skipped where there is no GPU.
namespace sage2 {
namespace {

using testing::TempDir;

bool have_gpu() {
#ifdef SAGE2_HAS_CUDA
  return !cuda::find_devices().devices.empty();
#else
  return false;
#endif
}

std::string sample(const std::string& name) {
  return std::string(SAGE2_SOURCE_DIR) + "/datasets/samples/" + name;
}

/// `eval` on a device, into a folder of its own.
std::vector<Record> evaluate(const TempDir& dir, const std::string& folder, std::vector<std::string> words) {
  words.insert(words.begin(), {SAGE2_EVAL_BINARY, "eval"});
  words.insert(words.end(), {"--out", dir / folder});
  const auto outcome = test::run(words);
  EXPECT_EQ(outcome.status, 0) << outcome.output;
  return outcome.status == 0 ? read_run(dir / folder).records : std::vector<Record>{};
}

/// The outputs are equal to the bit, so what differs is the FP64 reference in its last bits: a few units of 2^-53 of
/// outputs up to 10. That is below 1e-9 of every error except those of exact attention, which are 1e-7 themselves.
constexpr double kLastBits = 1e-14;

void expect_near(double a, double b, double tolerance, const std::string& what) {
  EXPECT_TRUE(a == b || std::fabs(a - b) <= tolerance * std::fabs(b) + kLastBits) << what << ": " << a << " and " << b;
}

void expect_same(const ErrorMetrics& a, const ErrorMetrics& b, double tolerance, const std::string& what) {
  // Of the part that is missing to 1, which is what is read of it.
  EXPECT_TRUE(std::fabs(a.cos_sim - b.cos_sim) <= tolerance * (1 - b.cos_sim) + kLastBits) << what;
  expect_near(a.rel_l1, b.rel_l1, tolerance, what + " rel_l1");
  expect_near(a.rmse, b.rmse, tolerance, what + " rmse");
  expect_near(a.max_abs, b.max_abs, tolerance, what + " max_abs");
  // A percentile is the middle of a bucket of 1/64 octave: an error on its border may fall on either side.
  constexpr double kBucket = 1.0 / 64;
  expect_near(a.p50, b.p50, kBucket, what + " p50");
  expect_near(a.p90, b.p90, kBucket, what + " p90");
  expect_near(a.p99, b.p99, kBucket, what + " p99");
  expect_near(a.p999, b.p999, kBucket, what + " p999");
  EXPECT_EQ(a.rel_l1_se.has_value(), b.rel_l1_se.has_value()) << what;
  if (!a.rel_l1_se || !b.rel_l1_se) return;
  expect_near(*a.cos_sim_se, *b.cos_sim_se, 1e-6, what + " cos_sim_se");
  expect_near(*a.rel_l1_se, *b.rel_l1_se, 1e-6, what + " rel_l1_se");
  expect_near(*a.rmse_se, *b.rmse_se, 1e-6, what + " rmse_se");
}

/// Everything in a record except device, engine and time.
void expect_same_records(const std::vector<Record>& gpu, const std::vector<Record>& cpu) {
  ASSERT_FALSE(cpu.empty());
  ASSERT_EQ(gpu.size(), cpu.size());
  for (std::size_t i = 0; i < cpu.size(); ++i) {
    const auto& a = gpu[i];
    const auto& b = cpu[i];
    const auto what = fmt::format("{} layer {} timestep {} {}", b.capture, b.layer, b.timestep, b.variant);
    EXPECT_EQ(a.key, b.key) << what;  // the same cells in the same order
    EXPECT_EQ(a.device, "cuda");
    EXPECT_EQ(a.engine, "emulated") << what;
    EXPECT_EQ(b.device, "cpu");
    EXPECT_EQ(nlohmann::json(a).at("counts"), nlohmann::json(b).at("counts")) << what;
    EXPECT_EQ(nlohmann::json(a).at("shape"), nlohmann::json(b).at("shape")) << what;
    EXPECT_EQ(a.heads_selected, b.heads_selected) << what;
    EXPECT_EQ(a.queries.has_value(), b.queries.has_value()) << what;
    EXPECT_EQ(a.sums.count, b.sums.count) << what;
    expect_near(a.sums.out_out, b.sums.out_out, 1e-12, what + " out_out");
    expect_near(a.sums.ref_ref, b.sums.ref_ref, 1e-12, what + " ref_ref");
    expect_same(a.metrics, b.metrics, 1e-9, what);
    ASSERT_EQ(a.heads.size(), b.heads.size()) << what;
    for (std::size_t h = 0; h < a.heads.size(); ++h) {
      EXPECT_EQ(a.heads[h].batch, b.heads[h].batch);
      EXPECT_EQ(a.heads[h].head, b.heads[h].head);
      expect_same(a.heads[h].metrics, b.heads[h].metrics, 1e-9, fmt::format("{} head {}", what, h));
    }
  }
}

class CudaEval : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!have_gpu()) GTEST_SKIP() << "no GPU";
  }
  TempDir dir_;
};

TEST_F(CudaEval, EverySuiteGivesTheRecordsOfTheCpu) {
  for (const std::string name : {"dit", "lm"}) {
    const std::vector<std::string> words{sample(name + ".h5"), "--suite", "all"};
    auto on = [&](std::vector<std::string> more) {
      auto all = words;
      all.insert(all.end(), more.begin(), more.end());
      return evaluate(dir_, name + more[1], all);
    };
    const auto gpu = on({"--device", "cuda", "--engine", "emulated"});
    expect_same_records(gpu, on({"--device", "cpu"}));
  }
  const auto compared = test::run(
      {SAGE2_EVAL_BINARY, "compare", dir_ / "ditcpu", dir_ / "ditcuda", "--tolerance", "1e-9", "--fail-if-worse"});
  EXPECT_EQ(compared.status, 0) << compared.output;
}

/// A shape that exercises batch entries, GQA, unequal lengths, a mask and selected heads; whole, with sampled rows, and
/// with so little memory that it is cut into many chunks.
TEST_F(CudaEval, SelectionsAndChunksGiveTheRecordsOfTheCpu) {
  ASSERT_EQ(test::run({SAGE2_EVAL_BINARY, "synth",   "--out",    dir_ / "s.h5", "--kind",     "cogvideox,sinks",
                       "--batch",         "2",       "--heads",  "6",           "--kv-heads", "2",
                       "--q-len",         "2100",    "--kv-len", "700",         "--head-dim", "96",
                       "--causal",        "--dtype", "bfloat16", "--layout",    "NHD"})
                .status,
            0);
  const std::vector<std::vector<std::string>> selections{
      {}, {"--heads", "0,1,2,5"}, {"--queries", "70", "--seed", "3"}, {"--heads", "4", "--queries", "1500"}};
  const std::vector<std::vector<std::string>> budgets{{}, {"--gpu-memory", "0.1"}, {"--gpu-memory", "0.01"}};
  int folder = 0;
  for (const auto& selection : selections) {
    std::vector<std::string> words{dir_ / "s.h5", "--variants", "sage2-4b,sage2pp-8b,int4-hadamard:v_outliers=split"};
    words.insert(words.end(), selection.begin(), selection.end());
    auto cpu_words = words;
    cpu_words.insert(cpu_words.end(), {"--device", "cpu"});
    const auto cpu = evaluate(dir_, fmt::format("cpu{}", folder), cpu_words);
    for (const auto& budget : budgets) {
      auto gpu_words = words;
      gpu_words.insert(gpu_words.end(), {"--device", "cuda", "--engine", "emulated"});
      gpu_words.insert(gpu_words.end(), budget.begin(), budget.end());
      expect_same_records(evaluate(dir_, fmt::format("gpu{}", folder++), gpu_words), cpu);
    }
  }
}

/// The same bits whatever ran beside what.
TEST_F(CudaEval, RunsAreRepeatable) {
  const std::vector<std::string> words{sample("dit.h5"), "--suite", "presets", "--device", "cuda"};
  auto a = evaluate(dir_, "a", words);
  auto b = evaluate(dir_, "b", words);
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    a[i].seconds = b[i].seconds = 0;
    EXPECT_EQ(nlohmann::json(a[i]).dump(), nlohmann::json(b[i]).dump());
  }
  EXPECT_NE(read_run(dir_ / "a").info.gpu, "");
  EXPECT_NE(read_run(dir_ / "a").info.driver, "");
  EXPECT_NE(read_run(dir_ / "a").info.compute_capability, "");
}

/// Native kernels give the emulation's errors, within what verify allows them to differ.
TEST_F(CudaEval, NativeKernelsGiveTheErrorsOfTheEmulation) {
  const std::vector<std::string> words{sample("dit.h5"), "--variants",
                                       "sage2-4b@hopper,sage2-8b@hopper,sage1@ampere,sage2-8b"};
  const auto on = [&](const std::string& engine) {
    auto all = words;
    all.insert(all.end(), {"--device", "cuda", "--engine", engine});
    return evaluate(dir_, engine, all);
  };
  const auto native = on("auto");
  const auto emulated = on("emulated");
  ASSERT_EQ(native.size(), emulated.size());
  const bool hopper = read_run(dir_ / "auto").info.compute_capability == "9.0";
  for (std::size_t i = 0; i < native.size(); ++i) {
    // A record says native of the chip that the variant means, and of no other whose tensor cores were borrowed.
    if (hopper) {
      EXPECT_EQ(native[i].engine == "native", native[i].variant.find("@hopper") != std::string::npos);
    }
    EXPECT_EQ(native[i].key, emulated[i].key);
    EXPECT_EQ(native[i].counts.p_total, emulated[i].counts.p_total) << native[i].variant;
    expect_near(native[i].metrics.rel_l1, emulated[i].metrics.rel_l1, 1e-3, native[i].variant + " " + native[i].engine);
  }
}

TEST_F(CudaEval, BadCellsDoNotEndTheRun) {
  auto cell = testing::small_cell();
  {
    CaptureWriter writer(dir_ / "bad.h5", {"toy", "test", 0});
    for (int layer = 0; layer < 3; ++layer) {
      cell.id.layer = layer;
      writer.begin_cell(cell);
      for (const auto name : {TensorName::q, TensorName::k, TensorName::v}) {
        const std::size_t heads = name == TensorName::q ? cell.shape.q_heads : cell.shape.kv_heads;
        for (std::size_t b = 0; b < cell.shape.batch; ++b) {
          for (std::size_t h = 0; h < heads; ++h) {
            auto m = testing::head_values(cell.shape, name, b, h);
            m(0, 0) = static_cast<float>(layer);  // records are of contents: no two cells may be alike
            if (layer == 1 && name == TensorName::k && b == 1) m(2, 1) = NAN;
            writer.write_head(name, b, h, m);
          }
        }
      }
    }
    writer.finish();
  }
  for (const std::string device : {"cuda", "cpu"}) {
    const auto out = test::run({SAGE2_EVAL_BINARY, "eval", dir_ / "bad.h5", "--variants", "sage2-8b", "--out",
                                dir_ / device, "--device", device});
    EXPECT_EQ(WEXITSTATUS(out.status), 3) << out.output;
    EXPECT_EQ(read_run(dir_ / device).records.size(), 2U);
    EXPECT_EQ(read_run(dir_ / device).errors.size(), 1U);
  }
  EXPECT_EQ(read_run(dir_ / "cuda").errors.at(0).message, read_run(dir_ / "cpu").errors.at(0).message);
}

}  // namespace
}  // namespace sage2
