#include <gtest/gtest.h>

#include "harness/evaluate.hpp"
#include "reports/record.hpp"
#include "tests/datasets/capture_files.hpp"
#include "tests/reports/python.hpp"

/// Where a run computes, on machines and in builds of every kind: an empty CUDA_VISIBLE_DEVICES hides all GPUs.
namespace sage2 {
namespace {

using testing::TempDir;

struct Ended {
  int code = -1;
  std::string output;
  [[nodiscard]] bool says(const std::string& text) const { return output.find(text) != std::string::npos; }
};

Ended without_gpus(std::vector<std::string> words) {
  words.insert(words.begin(), {"env", "CUDA_VISIBLE_DEVICES=", SAGE2_EVAL_BINARY});
  const auto outcome = test::run(words);
  return {WIFEXITED(outcome.status) ? WEXITSTATUS(outcome.status) : -1, outcome.output};
}

class Device : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cell = testing::small_cell();
    cell.sm_scale = 0.001F;
    testing::write_capture(dir_ / "a.h5", cell);
  }
  Ended eval(std::vector<std::string> more) {
    std::vector<std::string> words{"eval", dir_ / "a.h5", "--variants", "sage2-8b", "--out", dir_ / "run"};
    words.insert(words.end(), more.begin(), more.end());
    return without_gpus(words);
  }
  TempDir dir_;
};

TEST_F(Device, CudaWithoutAGpuEndsWithTheReason) {
  for (const auto& words : std::vector<std::vector<std::string>>{
           {"--device", "cuda"}, {"--engine", "native"}, {"--device", "cuda", "--engine", "emulated"}}) {
    const auto out = eval(words);
    EXPECT_EQ(out.code, 4) << out.output;
    EXPECT_EQ(std::count(out.output.begin(), out.output.end(), '\n'), 1) << out.output;
#ifdef SAGE2_HAS_CUDA
    EXPECT_TRUE(out.says("GPU")) << out.output;
#else
    EXPECT_TRUE(out.says("this build has no CUDA engine")) << out.output;
#endif
  }
  EXPECT_FALSE(std::filesystem::exists(dir_ / "run"));  // nothing was begun
}

TEST_F(Device, AutoFallsBackToTheCpuAndSaysSo) {
  const auto out = eval({});
  EXPECT_EQ(out.code, 0) << out.output;
  EXPECT_TRUE(out.says("computing on the CPU")) << out.output;
  const auto run = read_run(dir_ / "run");
  ASSERT_EQ(run.records.size(), 1U);
  EXPECT_EQ(run.records[0].device, "cpu");
  EXPECT_EQ(run.records[0].engine, "emulated");
  EXPECT_EQ(run.info.gpu, "");
}

TEST_F(Device, CpuAsksForNoGpu) {
  const auto out = eval({"--device", "cpu"});
  EXPECT_EQ(out.code, 0) << out.output;
  EXPECT_FALSE(out.says("computing on")) << out.output;
}

TEST_F(Device, ContradictionsAreRefused) {
  EXPECT_EQ(eval({"--device", "cpu", "--engine", "native"}).code, 2);
  EXPECT_EQ(eval({"--engine", "native", "--queries", "3"}).code, 2);
  EXPECT_EQ(eval({"--device", "gpu"}).code, 2);
  EXPECT_EQ(eval({"--engine", "fast"}).code, 2);
  EXPECT_EQ(eval({"--gpu-memory", "-1"}).code, 2);
}

TEST_F(Device, VerifyWithoutAGpuEndsWithTheReason) {
  const auto out = without_gpus({"verify", "--quick"});
  EXPECT_EQ(out.code, 4) << out.output;
  EXPECT_EQ(without_gpus({"verify", "--variants", "sage9"}).code, 2);
  EXPECT_EQ(without_gpus({"verify", "--quick", "--tiny"}).code, 2);
}

}  // namespace
}  // namespace sage2
