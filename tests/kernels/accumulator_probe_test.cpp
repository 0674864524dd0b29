#include "kernels/accumulator_probe.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "fmt/core.h"
#include "kernels/device_info.hpp"
#include "kernels/ex2_probe.hpp"

namespace sage2::cuda {
namespace {

/// Results compared of each kind; SAGE2_PROBE_COUNT asks for more.
std::uint64_t wanted() {
  const char* const text = std::getenv("SAGE2_PROBE_COUNT");  // NOLINT(concurrency-mt-unsafe)
  return text == nullptr ? 20'000'000 : std::strtoull(text, nullptr, 10);
}

TEST(AccumulatorProbe, HardwareFollowsTheModel) {
  if (find_devices().devices.empty()) GTEST_SKIP() << find_devices().why_none;
  for (const auto& p : probe_accumulators(wanted(), 1)) {
    fmt::print("{}: {} of {} differ ({})\n", p.kind, p.mismatches, p.compared, p.model);
    if (!p.first_mismatch.empty()) fmt::print("{}\n", p.first_mismatch);
    EXPECT_EQ(p.mismatches, 0U) << p.kind;
    EXPECT_GE(p.compared, wanted());
    // The same words must tell a wrong model from the right one.
    for (const auto& other : p.near) {
      fmt::print("    {}: {} of {}\n", other.model, other.mismatches, other.compared);
      EXPECT_GT(other.mismatches, 0U) << p.kind << ": " << other.model;
    }
  }
}

/// The CUDA documentation promises 2 ulp for ex2.approx.ftz.f32: 2^-22 of the value where an ulp is largest.
TEST(Ex2Probe, StaysWithinItsPromise) {
  if (find_devices().devices.empty()) GTEST_SKIP() << find_devices().why_none;
  for (const auto& p : probe_ex2()) {
    const auto share = [&](std::uint64_t n) {
      return 100.0 * static_cast<double>(n) / static_cast<double>(p.compared);
    };
    fmt::print(
        "ex2.approx.ftz.f32 {}: {} arguments, worst {:.4f} ulp, 2^{:.3f} of the value, {:.4f}% correctly rounded (the "
        "shared polynomial "
        "{:.4f}%), {:.4f}% equal to it; {} of {} differ from the same fraction in [1, 2) of the same sign\n",
        p.arguments, p.compared, p.worst_ulp, std::log2(p.worst_relative), share(p.correctly_rounded),
        share(p.shared_rounded), share(p.as_shared), p.unlike_shifted, p.aligned);
    EXPECT_GT(p.compared, 0U);
    EXPECT_FALSE(!(p.worst_relative <= 0x1p-22)) << p.arguments;
  }
}

}  // namespace
}  // namespace sage2::cuda
