#include "kernels/emulate_layout.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

// How the loop is cut to a device's shared memory. Needs no GPU.
namespace sage2::cuda {
namespace {

constexpr SharedMemory kA100{108, 166912, 167936};
constexpr SharedMemory kRtx4090{128, 101376, 102400};
constexpr SharedMemory kH200{132, 232448, 233472};
constexpr Product kProducts[] = {Product::integer, Product::fp64, Product::light, Product::heavy};

LoopParams params_of(Product qk, Product pv, std::int32_t depth, std::int32_t k_tile, std::int32_t channels) {
  LoopParams p{};
  p.qk.how = qk;
  p.depth = depth;
  p.k_tile = k_tile;
  p.row_count = 4096;
  p.parts = 1;
  p.part[0].product.how = pv;
  p.part[0].count = channels;
  return p;
}

/// Bytes that a panel needs, written down once more: values, then exponents of two elements a word.
std::int64_t panel_bytes(Product how, std::int64_t depth, std::int64_t columns) {
  switch (how) {
    case Product::integer:
      return depth * columns;
    case Product::fp64:
      return depth * columns * 8;
    case Product::light:
      return depth * columns * 4 + depth * columns * 2;
    default:
      return depth * columns * 8 + depth * columns * 2;
  }
}

/// Every piece is as large as what is put there, none overlaps the next, and all fit the device.
void check(const LoopParams& p, const LoopFit& fit, const SharedMemory& device) {
  const auto& l = fit.layout;
  const std::int64_t rows = fit.rows;
  ASSERT_LE(l.size, device.of_block);
  ASSERT_TRUE(l.pv_chunk == 32 || l.pv_chunk == 64);
  ASSERT_TRUE(l.q_depth == p.depth || l.q_depth == l.qk_chunk);
  ASSERT_EQ(l.qk_chunk % 32, 0);
  ASSERT_TRUE(l.slice == p.part[0].count || l.slice % kPanelColumns == 0);
  ASSERT_GE(l.slices * l.slice, p.part[0].count);
  const std::int64_t keys = std::min(l.pv_chunk, p.k_tile);
  const auto q = panel_bytes(p.qk.how, l.q_depth, rows);
  std::int64_t of_p = 0;
  // Integers of B have 68 words a row of four k.
  auto b = p.qk.how == Product::integer ? l.qk_chunk * 68 : panel_bytes(p.qk.how, l.qk_chunk, 64);
  for (int i = 0; i < p.parts; ++i) {
    const auto how = p.part[i].product.how;
    of_p = std::max(of_p, how == Product::light ? keys * rows * 2 : panel_bytes(how, keys, rows));
    b = std::max(b, how == Product::integer ? keys * 68 : panel_bytes(how, keys, 64));
  }
  std::vector<std::pair<std::int64_t, std::int64_t>> pieces{{l.rows, rows * 9 * 4 + 16},
                                                            {l.k_scale, p.k_tile * 4},
                                                            {l.s, p.k_tile * rows * 4},
                                                            {l.q, q},
                                                            {l.p, of_p},
                                                            {l.b, b}};
  for (int i = 0; i < p.parts; ++i) {
    const std::int64_t channels = i == 0 ? std::min(l.slice, p.part[0].count) : p.part[i].count;
    pieces.emplace_back(l.o[i], channels * rows * (p.part[i].product.how == Product::fp64 ? 8 : 4));
  }
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const auto& [at, size] = pieces[i];
    ASSERT_EQ(at % 16, 0);
    ASSERT_LE(at + size, i + 1 < pieces.size() ? pieces[i + 1].first : static_cast<std::int64_t>(l.size)) << i;
  }
}

TEST(EmulateLayout, FitsEveryProductShapeAndDevice) {
  for (const auto& device : {kA100, kRtx4090, kH200}) {
    for (const Product qk : kProducts) {
      for (const Product pv : kProducts) {
        for (const std::int32_t depth : {32, 64, 96, 128, 160, 256}) {
          for (std::int32_t k_tile = 32; k_tile <= 256; k_tile += 32) {
            for (const std::int32_t channels : {1, 64, 72, 128, 256}) {
              for (const std::int64_t heads : {1, 64}) {
                auto p = params_of(qk, pv, depth, k_tile, channels);
                check(p, fit_loop(p, heads, device), device);
                // Outlier channels beside the others.
                p.parts = 2;
                p.part[1].count = std::max(1, channels / 16);
                p.part[1].product.how = pv == Product::integer ? Product::fp64 : Product::heavy;
                check(p, fit_loop(p, heads, device), device);
              }
            }
          }
        }
      }
    }
  }
}

/// Two blocks of 64 rows lie on a multiprocessor at once where a video model's call is large, and small problems are
/// cut finer.
TEST(EmulateLayout, LargeBlocksForLargeProblems) {
  const auto p = params_of(Product::integer, Product::light, 64, 64, 64);
  const auto large = fit_loop(p, 24, kH200);
  EXPECT_EQ(large.rows, 64);
  EXPECT_LE(2 * (large.layout.size + 1024), kH200.of_multiprocessor);
  EXPECT_EQ(large.layout.slices, 1);
  EXPECT_EQ(fit_loop(p, 1, kH200).rows, 32);
}

}  // namespace
}  // namespace sage2::cuda
