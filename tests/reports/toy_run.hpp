#pragma once

#include <functional>
#include <string>
#include <vector>

#include "reports/cells.hpp"
#include "reports/costs.hpp"
#include "tests/reports/synthetic.hpp"

/// Runs and tables with known errors, for tests of adaptive maps.
namespace sage2::test {

/// testing::Test has a member called Run, which hides the type in tests.
using Runs = std::vector<Run>;

/// Relative L1 of a cell's sample in a variant (0 the base, 1 the fallback, ...). CosSim is 1 - rel_l1^2 / 2.
using ToyError = std::function<double(int layer, int timestep, int sample, std::size_t variant)>;

struct ToyRun {
  std::vector<int> layers{0, 1};
  std::vector<int> timesteps{0, 5, 10};
  int samples = 1;
  int first_sample = 0;
  std::vector<std::string> variants{"sage2-4b", "sage2-8b"};
  std::string capture = "toy.h5";
  std::string fingerprint = "f0";

  [[nodiscard]] Run make(const ToyError& error) const {
    Run run;
    run.folder = "runs/" + capture;
    CaptureInfo info;
    info.name = capture;
    info.fingerprint = fingerprint;
    info.model = "toy model";
    run.info.captures.push_back(info);
    for (const int layer : layers) {
      for (const int timestep : timesteps) {
        for (int s = first_sample; s < first_sample + samples; ++s) {
          for (std::size_t v = 0; v < variants.size(); ++v) {
            const double e = error(layer, timestep, s, v);
            Record r = make_record(variants[v], layer, timestep, s, 1 - e * e / 2, e);
            r.capture = capture;
            r.key += "/" + fingerprint;
            run.records.push_back(std::move(r));
          }
        }
      }
    }
    return run;
  }
};

inline std::vector<VariantId> ids(const std::vector<std::string>& names) {
  std::vector<VariantId> out;
  for (const auto& n : names) out.push_back({n, n});
  return out;
}

/// INT4, INT8, ... as the operations model sees the names of these tests.
inline OperandBits toy_bits(const std::string& variant) {
  if (variant == "sage2-4b") return {4, 8};
  if (variant == "sage1") return {8, 16};
  if (variant == "fp16") return {16, 16};
  return {8, 8};
}

}  // namespace sage2::test
