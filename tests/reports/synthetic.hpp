#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "reports/record.hpp"

/// Records with known contents, for tests of everything that is made of records.
namespace sage2::test {

/// A record whose output is (1 + e) times a reference of n elements +-1, turned so that cos_sim is `cos_sim`:
/// metrics and sums agree with each other.
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

}  // namespace sage2::test
