#include <array>
#include <cmath>

#include "fmt/format.h"
#include "harness/verify.hpp"

/// The shapes that are verified.
namespace sage2 {
namespace {

/// What goes round while the shapes do.
constexpr std::array kKinds{SynthKind::k_bias, SynthKind::cogvideox, SynthKind::outliers,
                            SynthKind::sinks,  SynthKind::peaked,    SynthKind::gaussian};
constexpr std::array<std::size_t, 3> kGroups{1, 4, 6};

struct Lengths {
  std::size_t q, k;
};

class GridBuilder {
 public:
  void add(Lengths n, std::size_t head_dim, bool causal, CausalAlign align = CausalAlign::bottom_right) {
    const auto i = cases_.size();
    CellInfo cell;
    cell.id.layer = static_cast<int>(i);
    // Two key/value heads where they are shared by few, so that a wrong head shows.
    const auto group = kGroups.at(i % kGroups.size());
    const std::size_t kv_heads = n.q * n.k > (std::size_t{1} << 22) || group == 6 ? 1 : 2;
    cell.shape = {1, kv_heads * group, kv_heads, n.q, n.k, head_dim};
    cell.is_causal = causal;
    cell.causal_align = align;
    cell.sm_scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
    cell.dtype = i % 2 == 0 ? DType::float16 : DType::bfloat16;
    cell.dtypes = {cell.dtype, cell.dtype, cell.dtype};
    cases_.push_back({cell, kKinds.at(i % kKinds.size())});
  }
  std::vector<VerifyCase> take() { return std::move(cases_); }

 private:
  std::vector<VerifyCase> cases_;
};

std::vector<VerifyCase> full_grid() {
  GridBuilder grid;
  for (const std::size_t n : {1, 63, 64, 65, 127, 1000}) {
    for (const std::size_t head_dim : {64, 96, 128}) {
      for (const bool causal : {false, true}) grid.add({n, n}, head_dim, causal);
    }
  }
  for (const auto n : {Lengths{65, 1000}, Lengths{1000, 63}, Lengths{1, 4096}}) {
    for (const std::size_t head_dim : {64, 128}) {
      grid.add(n, head_dim, false);
      grid.add(n, head_dim, true);
      grid.add(n, head_dim, true, CausalAlign::top_left);
    }
  }
  for (const std::size_t head_dim : {64, 96, 128}) {
    for (const bool causal : {false, true}) grid.add({4096, 4096}, head_dim, causal);
  }
  grid.add({17776, 17776}, 64, false);
  grid.add({17776, 17776}, 128, true);
  return grid.take();
}

std::vector<VerifyCase> quick_grid() {
  GridBuilder grid;
  for (const std::size_t n : {1, 65, 127, 1000}) {
    grid.add({n, n}, 64, n == 65);
    grid.add({n, n}, 128, n != 65);
  }
  grid.add({127, 127}, 96, true);
  grid.add({65, 1000}, 128, true);
  grid.add({1000, 63}, 64, true, CausalAlign::top_left);
  grid.add({4096, 4096}, 128, false);
  grid.add({300, 4300}, 64, false);  // more tiles than sm90's kernel for short calls takes
  return grid.take();
}

std::vector<VerifyCase> tiny_grid() {
  GridBuilder grid;
  grid.add({65, 65}, 64, true);
  grid.add({130, 100}, 128, false);
  grid.add({1, 129}, 96, true);
  return grid.take();
}

}  // namespace

std::vector<VerifyCase> verify_grid(Grid grid) {
  switch (grid) {
    case Grid::full:
      return full_grid();
    case Grid::quick:
      return quick_grid();
    default:
      return tiny_grid();
  }
}

std::string describe(const CellInfo& cell) {
  const auto& s = cell.shape;
  const char* mask =
      cell.is_causal ? (cell.causal_align == CausalAlign::top_left ? "causal from the top" : "causal") : "no mask";
  return fmt::format("q {} x k {}, d {}, heads {}/{}, {}, {}", s.q_len, s.kv_len, s.head_dim, s.q_heads, s.kv_heads,
                     mask, to_string(cell.dtype));
}

}  // namespace sage2
