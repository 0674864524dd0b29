#include "datasets/inspect.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {
namespace {

constexpr std::size_t kBlockRows = 256;

/// Twice what P and O cost that were rounded to bfloat16 (2^-9 each), and room for outputs that cancel. A wrong layout,
/// mask or scale is off by the size of the output itself.
constexpr double kProved = 0.05;

/// Sums over some rows of a matrix.
struct BlockSums {
  std::vector<double> sum;             ///< by channel, of finite values
  std::vector<std::uint32_t> finite;   ///< by channel
  std::vector<std::uint32_t> nonzero;  ///< by channel, NaN and infinity among them
  float min = std::numeric_limits<float>::infinity();
  float max = -std::numeric_limits<float>::infinity();
  std::size_t nan = 0, inf = 0, zero_rows = 0;
};

BlockSums sum_block(const Matrix& m, std::size_t first, std::size_t last) {
  BlockSums s;
  s.sum.resize(m.cols);
  s.finite.resize(m.cols);
  s.nonzero.resize(m.cols);
  for (std::size_t i = first; i < last; ++i) {
    const float* const row = m.row(i);
    std::uint32_t nonzero_in_row = 0;
    for (std::size_t c = 0; c < m.cols; ++c) {
      const float x = row[c];
      const bool finite = std::abs(x) <= std::numeric_limits<float>::max();
      const std::uint32_t nonzero = x == 0.0F ? 0 : 1;
      s.sum[c] += finite ? static_cast<double>(x) : 0.0;
      s.finite[c] += finite ? 1 : 0;
      s.nonzero[c] += nonzero;
      nonzero_in_row += nonzero;
    }
    for (std::size_t c = 0; c < m.cols; ++c) {
      const float x = row[c];
      if (std::abs(x) <= std::numeric_limits<float>::max()) {
        s.min = std::min(s.min, x);
        s.max = std::max(s.max, x);
      } else {
        ++(std::isnan(x) ? s.nan : s.inf);
      }
    }
    s.zero_rows += nonzero_in_row == 0 ? 1 : 0;
  }
  return s;
}

std::vector<double> squares_block(const Matrix& m, const std::vector<double>& mean, std::size_t first,
                                  std::size_t last) {
  std::vector<double> squares(m.cols);
  for (std::size_t i = first; i < last; ++i) {
    const float* const row = m.row(i);
    for (std::size_t c = 0; c < m.cols; ++c) {
      const double away = static_cast<double>(row[c]) - mean[c];
      squares[c] += std::abs(row[c]) <= std::numeric_limits<float>::max() ? away * away : 0.0;
    }
  }
  return squares;
}

void merge(TensorStats& into, const TensorStats& head, std::size_t head_index, bool first) {
  into.min = first ? head.min : std::min(into.min, head.min);
  into.max = first ? head.max : std::max(into.max, head.max);
  if (first || head.bias > into.bias) {
    into.bias = head.bias;
    into.bias_head = head_index;
    into.bias_channel = head.bias_channel;
  }
  into.nan += head.nan;
  into.inf += head.inf;
  into.zero_rows += head.zero_rows;
  into.zero_channels += head.zero_channels;
  into.constant_channels += head.constant_channels;
}

double row_error(const HeadProblem& p, const Matrix& output, std::size_t i) {
  const std::size_t visible = p.visible(i);
  const std::size_t d = p.q.cols;
  std::vector<double> weight(visible);
  double largest = -std::numeric_limits<double>::infinity();
  for (std::size_t j = 0; j < visible; ++j) {
    double score = 0;
    for (std::size_t c = 0; c < d; ++c) score += static_cast<double>(p.q(i, c)) * static_cast<double>(p.k(j, c));
    weight[j] = score * static_cast<double>(p.sm_scale);
    largest = std::max(largest, weight[j]);
  }
  double total = 0;
  std::vector<double> expected(d);
  for (std::size_t j = 0; j < visible; ++j) {
    weight[j] = std::exp(weight[j] - largest);
    total += weight[j];
    for (std::size_t c = 0; c < d; ++c) expected[c] += weight[j] * static_cast<double>(p.v(j, c));
  }
  double error = 0;
  double size = 0;
  for (std::size_t c = 0; c < d; ++c) {
    const double e = visible == 0 ? 0.0 : expected[c] / total;
    error += (static_cast<double>(output(i, c)) - e) * (static_cast<double>(output(i, c)) - e);
    size += e * e;
  }
  if (size == 0) return error == 0 ? 0.0 : std::numeric_limits<double>::infinity();
  return std::sqrt(error / size);
}

void judge(CellReport& report, const std::string& file) {
  for (std::size_t t = 0; t < 3; ++t) {
    const TensorStats& s = report.tensors.at(t);
    const std::string where = fmt::format("'{}', dataset '{}'", file, report.info->paths.at(t));
    if (s.nan + s.inf > 0) report.problems.push_back(fmt::format("{}: {} NaN, {} infinities", where, s.nan, s.inf));
    const auto warn = [&](std::size_t count, const char* what) {
      if (count > 0) report.warnings.push_back(fmt::format("{}: {} {}", where, count, what));
    };
    warn(s.zero_rows, "all-zero rows (kernels that divide by a row's largest value return NaN)");
    warn(s.zero_channels, "all-zero channels (kernels that divide by a channel's largest value return NaN)");
    warn(s.constant_channels, "channels with one value for all tokens");
  }
  if (report.output && !report.output->proved()) {
    const OutputCheck& o = *report.output;
    report.problems.push_back(fmt::format(
        "'{}', dataset '{}': differs from attention of q, k and v by {:.2g} of its size (batch {}, head {}, "
        "row {}): layout, mask or sm_scale is wrong",
        file, report.info->output_path, o.worst_error, o.worst_batch, o.worst_head, o.worst_row));
  }
}

/// Statistics of q, and of k and v once for all query heads that share them; and the check of the output.
void read_cell(const CaptureReader& reader, CellReport& report) {
  const CellInfo& cell = *report.info;
  const Shape& s = cell.shape;
  HeadProblem problem;
  problem.is_causal = cell.is_causal;
  problem.causal_align = cell.causal_align;
  problem.sm_scale = cell.sm_scale;
  for (std::size_t b = 0; b < s.batch; ++b) {
    for (std::size_t h = 0; h < s.q_heads; ++h) {
      const std::size_t kv = s.kv_head(h);
      if (h % (s.q_heads / s.kv_heads) == 0) {
        reader.read_head(cell, TensorName::k, b, kv, problem.k);
        merge(report.tensors[1], matrix_stats(problem.k), kv, b == 0 && kv == 0);
        reader.read_head(cell, TensorName::v, b, kv, problem.v);
        merge(report.tensors[2], matrix_stats(problem.v), kv, b == 0 && kv == 0);
      }
      reader.read_head(cell, TensorName::q, b, h, problem.q);
      merge(report.tensors[0], matrix_stats(problem.q), h, b == 0 && h == 0);
      if (cell.output_path.empty()) continue;
      OutputCheck check = check_output(problem, reader.read_output(cell, b, h));
      check.worst_batch = b;
      check.worst_head = h;
      if (!report.output) {
        report.output = check;
        continue;
      }
      const std::size_t rows = report.output->rows + check.rows;
      if (!(check.worst_error <= report.output->worst_error)) report.output = check;
      report.output->rows = rows;
    }
  }
}

}  // namespace

bool OutputCheck::proved() const {
  return worst_error <= kProved;
}

TensorStats matrix_stats(const Matrix& m) {
  const std::size_t blocks = (m.rows + kBlockRows - 1) / kBlockRows;
  const auto last_row = [&](std::size_t b) { return std::min(m.rows, (b + 1) * kBlockRows); };
  std::vector<BlockSums> sums(blocks);
#pragma omp parallel for schedule(static)
  for (std::size_t b = 0; b < blocks; ++b) sums[b] = sum_block(m, b * kBlockRows, last_row(b));
  TensorStats stats;
  float min = std::numeric_limits<float>::infinity();
  float max = -min;
  std::vector<double> mean(m.cols), finite(m.cols), nonzero(m.cols), squares(m.cols);
  for (const BlockSums& s : sums) {
    for (std::size_t c = 0; c < m.cols; ++c) {
      mean[c] += s.sum[c];
      finite[c] += s.finite[c];
      nonzero[c] += s.nonzero[c];
    }
    min = std::min(min, s.min);
    max = std::max(max, s.max);
    stats.nan += s.nan;
    stats.inf += s.inf;
    stats.zero_rows += s.zero_rows;
  }
  if (min <= max) {  // else there is no finite value
    stats.min = static_cast<double>(min);
    stats.max = static_cast<double>(max);
  }
  for (std::size_t c = 0; c < m.cols; ++c) mean[c] = finite[c] > 0 ? mean[c] / finite[c] : 0.0;
  std::vector<std::vector<double>> parts(blocks);
#pragma omp parallel for schedule(static)
  for (std::size_t b = 0; b < blocks; ++b) parts[b] = squares_block(m, mean, b * kBlockRows, last_row(b));
  for (const auto& part : parts) {
    for (std::size_t c = 0; c < m.cols; ++c) squares[c] += part[c];
  }
  for (std::size_t c = 0; c < m.cols; ++c) {
    if (nonzero[c] == 0) ++stats.zero_channels;
    if (squares[c] == 0) {
      if (nonzero[c] > 0 && m.rows > 1 && finite[c] == static_cast<double>(m.rows)) ++stats.constant_channels;
      continue;
    }
    const double bias = std::abs(mean[c]) / std::sqrt(squares[c] / finite[c]);
    if (bias <= stats.bias) continue;
    stats.bias = bias;
    stats.bias_channel = c;
  }
  return stats;
}

OutputCheck check_output(const HeadProblem& problem, const Matrix& output) {
  const std::size_t n = problem.q.rows;
  OutputCheck check;
  for (const std::size_t row : std::set<std::size_t>{0, n / 3, 2 * n / 3, n - 1}) {
    const double error = row_error(problem, output, row);
    if (check.rows++ > 0 && error <= check.worst_error) continue;
    check.worst_error = error;
    check.worst_row = row;
    if (std::isnan(error)) break;
  }
  return check;
}

CellReport inspect_cell(const CaptureReader& reader, const CellId& id) {
  CellReport report;
  report.id = id;
  try {
    report.info = reader.describe(id);
    read_cell(reader, report);
    judge(report, reader.file().string());
  } catch (const DataError& error) {
    report.problems.emplace_back(error.what());
  }
  return report;
}

}  // namespace sage2
