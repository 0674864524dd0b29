#include "harness/chunk_plan.hpp"

#include <algorithm>
#include <bit>
#include <functional>
#include <span>

#include "datasets/convert.hpp"

namespace sage2 {
namespace {

/// Rows are not cut finer than this: below it the output is small beside Q, K and V themselves.
constexpr std::size_t kLeastRows = 1024;

std::size_t padded(std::size_t n, std::size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/// Codes and scales are FP32 when they are made; for tensor cores they are packed into at most two bytes each.
/// Statistics of columns, histograms and alignment are in the reserve on top.
std::size_t scratch_bytes(const Shape& s, const Variant& v, std::size_t q_count, std::size_t kv_count,
                          std::size_t rows_of_output, bool tensor_cores) {
  const std::size_t depth = padded(v.transform == Transform::hadamard ? std::bit_ceil(s.head_dim) : s.head_dim, 32);
  const std::size_t keys = padded(s.kv_len, v.geometry.k_tile);
  std::size_t floats = q_count * s.q_len * (depth + 1)                  // Q
                       + kv_count * keys * (depth + 1)                  // K
                       + kv_count * keys * s.head_dim                   // V
                       + q_count * rows_of_output * (s.head_dim + 16);  // output, and each row's sums
  // dS; for tensor cores it may be padded into another.
  if (v.smooth_q) floats += (tensor_cores ? 2 : 1) * q_count * (padded(s.q_len, kSmoothQBlock) / kSmoothQBlock) * keys;
  if (v.v_outliers == VOutliers::split) floats += kv_count * keys * s.head_dim;  // V beside its two parts
  std::size_t bytes = floats * sizeof(float);
  if (tensor_cores) bytes += 2 * (q_count * s.q_len + 2 * kv_count * keys) * depth;  // packed for the tensor core
  return bytes + bytes / 8 + (std::size_t{4} << 20);
}

/// How many of `n` things to take at once, where at most `most` fit: parts of about equal size.
std::size_t even_part(std::size_t n, std::size_t most) {
  const std::size_t parts = (n + most - 1) / most;
  return (n + parts - 1) / parts;
}

/// The most of 1 .. n that `fits`, 0 where not even one does; bigger never fits better.
template <class Fits>
std::size_t most_that_fit(std::size_t n, const Fits& fits) {
  std::size_t low = 0;
  for (std::size_t high = n + 1; high - low > 1;) {
    const std::size_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

std::vector<HeadGroup> head_groups(const CellInfo& cell, const std::vector<std::size_t>& heads) {
  std::vector<HeadGroup> groups;
  for (std::size_t b = 0; b < cell.shape.batch; ++b) {
    for (const auto h : heads) {
      const auto kv = cell.shape.kv_head(h);
      if (groups.empty() || groups.back().batch != b || groups.back().kv_head != kv) groups.push_back({b, kv, {}});
      groups.back().q_heads.push_back(h);
    }
  }
  return groups;
}

/// Plans one cell.
struct Planner {
  std::size_t rows;
  std::function<bool(const Chunk&)> fits;
  std::vector<Chunk> chunks;

  using Groups = std::span<const HeadGroup>;

  /// Groups with equally many query heads.
  void cut_run(Groups run) {
    const auto whole = [&](Groups part) { return Chunk{{part.begin(), part.end()}, 0, rows}; };
    const auto most = most_that_fit(run.size(), [&](std::size_t n) { return fits(whole(run.first(n))); });
    if (most == 0) {
      for (const auto& group : run) cut_group(group);
      return;
    }
    for (const auto part = even_part(run.size(), most); !run.empty(); run = run.subspan(std::min(part, run.size()))) {
      chunks.push_back(whole(run.first(std::min(part, run.size()))));
    }
  }

  /// A group whose query heads do not fit together.
  void cut_group(const HeadGroup& group) {
    std::span heads = group.q_heads;
    const auto first = [&](std::size_t n) {
      return HeadGroup{group.batch, group.kv_head, {heads.begin(), heads.begin() + static_cast<std::ptrdiff_t>(n)}};
    };
    const auto most = most_that_fit(heads.size(), [&](std::size_t n) { return fits({{first(n)}, 0, rows}); });
    const auto part = most == 0 ? 1 : even_part(heads.size(), most);
    for (; !heads.empty(); heads = heads.subspan(std::min(part, heads.size()))) {
      const auto piece = first(std::min(part, heads.size()));
      if (most == 0) {
        cut_rows(piece);
      } else {
        chunks.push_back({{piece}, 0, rows});
      }
    }
  }

  /// A head whose rows do not fit together.
  void cut_rows(const HeadGroup& head) {
    const auto most = most_that_fit(rows, [&](std::size_t n) { return fits({{head}, 0, n}); });
    const auto part = even_part(rows, std::min(rows, std::max(most, kLeastRows)));
    for (std::size_t i = 0; i < rows; i += part) chunks.push_back({{head}, i, std::min(part, rows - i)});
  }
};

}  // namespace

std::size_t ChunkBytes::peak() const {
  return resident + (scratch.empty() ? 0 : *std::max_element(scratch.begin(), scratch.end()));
}

ChunkBytes chunk_bytes(const CellInfo& cell, const Chunk& chunk, std::size_t rows_of_head,
                       const std::vector<NamedVariant>& variants, const std::vector<bool>& tensor_cores) {
  const auto& s = cell.shape;
  const std::size_t q_count = chunk.q_count();
  const std::size_t kv_count = chunk.groups.size();
  const auto stored = [&](TensorName name) { return byte_size(cell.dtypes.at(static_cast<std::size_t>(name))); };
  ChunkBytes bytes;
  bytes.resident = q_count * s.q_len * s.head_dim * stored(TensorName::q) +
                   kv_count * s.kv_len * s.head_dim * (stored(TensorName::k) + stored(TensorName::v)) +
                   q_count * chunk.rows * (s.head_dim * sizeof(double) + sizeof(std::uint32_t));
  for (std::size_t i = 0; i < variants.size(); ++i) {
    // Part of the rows of a tensor core's output are copied out of all of them.
    const std::size_t rows = tensor_cores[i] ? s.q_len + (chunk.rows < rows_of_head ? chunk.rows : 0) : chunk.rows;
    bytes.scratch.push_back(scratch_bytes(s, variants[i].variant, q_count, kv_count, rows, tensor_cores[i]));
  }
  return bytes;
}

std::vector<Chunk> plan_chunks(const CellInfo& cell, const std::vector<std::size_t>& heads, std::size_t rows_of_head,
                               const std::vector<NamedVariant>& variants, const std::vector<bool>& tensor_cores,
                               std::size_t budget) {
  Planner planner{rows_of_head,
                  [&](const Chunk& chunk) {
                    return chunk_bytes(cell, chunk, rows_of_head, variants, tensor_cores).peak() <= budget;
                  },
                  {}};
  const auto groups = head_groups(cell, heads);
  for (std::span<const HeadGroup> rest = groups; !rest.empty();) {
    std::size_t run = 1;
    while (run < rest.size() && rest[run].q_heads.size() == rest.front().q_heads.size()) ++run;
    planner.cut_run(rest.first(run));
    rest = rest.subspan(run);
  }
  return std::move(planner.chunks);
}

}  // namespace sage2
