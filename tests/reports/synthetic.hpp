#pragma once

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "reports/record.hpp"

/// Records with known contents, for tests of everything that is made of records.
namespace sage2::test {

/// A record whose sums belong to outputs of the reference's length: sum (O - O')^2 = (2 - 2 cos_sim) sum O^2. Its
/// metrics follow from the sums; heads lie 10% below and above.
inline Record make_record(const std::string& variant, int layer, int timestep, int sample, double cos_sim,
                          double rel_l1, int heads = 2) {
  Record r;
  r.capture = "toy.h5";
  r.model = "toy model";
  r.layer = layer;
  r.layer_name = "blocks." + std::to_string(layer) + ".attn";
  r.timestep = timestep;
  r.timestep_value = 1000.0 - 10.0 * timestep;
  r.sample = sample;
  r.variant = variant;
  r.name = variant;
  r.key = variant + '/' + std::to_string(layer) + '/' + std::to_string(timestep) + '/' + std::to_string(sample);
  r.device = "cpu";
  r.engine = "emulated";
  r.shape = {1, heads, heads, 64, 64, 32, false, 1 / std::sqrt(32.0)};
  const double n = 64.0 * 32.0 * heads;
  r.sums = {n, n, n * cos_sim, n * rel_l1, n, n * (2 - 2 * cos_sim), n};
  r.metrics = ratios(r.sums);
  r.metrics.max_abs = 4 * rel_l1;
  r.metrics.p50 = rel_l1 / 2;
  r.metrics.p90 = rel_l1;
  r.metrics.p99 = 2 * rel_l1;
  r.metrics.p999 = 3 * rel_l1;
  r.counts = {0, 0, 10, 1000, 3};
  r.seconds = 0.5;
  for (int h = 0; h < heads; ++h) {
    auto m = r.metrics;
    m.rel_l1 *= h % 2 == 0 ? 0.9 : 1.1;
    m.cos_sim = 1 - (1 - cos_sim) * (h % 2 == 0 ? 0.9 : 1.1);
    r.heads.push_back({0, h, m});
  }
  return r;
}

/// A description that lists the variants and one suite of them.
inline RunInfo make_info(const std::vector<SuiteRow>& rows, const std::string& suite = "smoothing") {
  RunInfo info;
  info.command = {"sage2-eval", "eval", "toy.h5", "--out", "a run"};
  info.version = "0.1.0";
  info.commit = "0123456789abcdef";
  info.cpu = "a processor";
  info.threads = 2;
  info.started = "2026-01-01T00:00:00Z";
  info.captures = {{"toy.h5", "toy.h5", "f00d", "toy model", "a test", 4096}};
  for (const auto& row : rows) info.variants.push_back({row.variant, row.variant});
  info.suites = {{suite, "Smoothing of Q and K", rows}};
  info.selection = nlohmann::json::object();
  return info;
}

/// A folder below the system's temporary one that lives as long as this object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::temp_directory_path() /
            ("sage2-" + std::to_string(getpid()) + '-' + test->test_suite_name() + '-' + test->name());
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline void write_text(const std::filesystem::path& file, const std::string& text) {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << text;
}

inline std::string read_text(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::filesystem::path write_run(const std::filesystem::path& folder, const RunInfo& info,
                                       const std::vector<Record>& records) {
  write_text(folder / "run.json", nlohmann::json(info).dump());
  std::string lines;
  for (const auto& r : records) lines += nlohmann::json(r).dump() + '\n';
  write_text(folder / "records.jsonl", lines);
  return folder;
}

/// Two variants of three layers and two timesteps; "b" is everywhere worse than "a", layer 1 the worst of both.
inline std::vector<Record> small_grid(int samples = 1) {
  std::vector<Record> records;
  for (int layer = 0; layer < 3; ++layer) {
    for (const int step : {0, 5}) {
      for (int sample = 0; sample < samples; ++sample) {
        const double e = 0.01 * (layer == 1 ? 3 : 1) * (step == 0 ? 1 : 1.5) * (1 + 0.02 * sample);
        records.push_back(make_record("a", layer, step, sample, 1 - e, 2 * e));
        records.push_back(make_record("b", layer, step, sample, 1 - 2 * e, 4 * e));
      }
    }
  }
  return records;
}

}  // namespace sage2::test
