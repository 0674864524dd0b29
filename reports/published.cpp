#include "reports/published.hpp"

#include <array>

namespace sage2 {
namespace {

// SageAttention2, arXiv:2411.10958, ablation tables on CogVideoX: average and worst over attention layers. INT4 Q and
// K, FP8 P and V unless the row says otherwise.
constexpr std::array<PublishedRow, 15> kRows{{
    {"smoothing", "none", {0.8004, 0.3906, 0.2223}, {0.0483, 0.9979, 0.7784}},
    {"smoothing", "Hadamard", {0.7977, 0.3782, 0.2180}, {0.0485, 0.9978, 0.7785}},
    {"smoothing", "SmoothAttn", {0.9021, 0.3383, 0.1952}, {0.6449, 0.9262, 0.7204}},
    {"smoothing", "smooth K", {0.9807, 0.1493, 0.0743}, {0.9086, 0.3565, 0.1464}},
    {"smoothing", "smooth Q", {0.9830, 0.1250, 0.0712}, {0.9310, 0.2989, 0.2195}},
    {"smoothing", "smooth Q+K", {0.9946, 0.0648, 0.0334}, {0.9671, 0.1956, 0.0779}},
    {"granularity", "per-token", {0.9945, 0.0649, 0.0335}, {0.9676, 0.1916, 0.0775}},
    {"granularity", "per-thread", {0.9945, 0.0622, 0.0313}, {0.9672, 0.1932, 0.0776}},
    {"granularity", "per-warp", {0.9945, 0.0648, 0.0334}, {0.9671, 0.1956, 0.0779}},
    {"granularity", "per-block", {0.9803, 0.1492, 0.0744}, {0.9068, 0.3615, 0.1490}},
    {"granularity", "per-tensor", {0.9715, 0.1800, 0.0865}, {0.8585, 0.4687, 0.2261}},
    {"pv-format", "INT8", {0.7705, 0.5618, 0.5044}, {0.1952, 0.9579, 1.4483}},
    {"pv-format", "E5M2", {0.9920, 0.0905, 0.0903}, {0.9494, 0.2327, 0.2361}},
    {"pv-format", "E4M3", {0.9944, 0.0683, 0.0347}, {0.9670, 0.1956, 0.0779}},
    {"pv-format", "FP16", {0.9945, 0.0649, 0.0335}, {0.9676, 0.1916, 0.0775}},
}};

}  // namespace

const PublishedRow* published_row(const std::string& suite, const std::string& label) {
  for (const auto& row : kRows) {
    if (suite == row.suite && label == row.label) return &row;
  }
  return nullptr;
}

}  // namespace sage2
