#include "reference/exact_attention.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "Eigen/Core"
#include "reference/fast_exp.hpp"

namespace sage2 {
namespace {

// Measured: S of one block pair stays in a 1 MiB L2 cache, and Eigen's product is fastest at this depth of P V.
constexpr std::size_t kQueryBlock = 192;
constexpr std::size_t kKeyBlock = 128;
// Eigen's kernels take up to 24 rows at once and sum the rest in another order; whole multiples give each row the
// same roundings wherever it stands.
constexpr std::size_t kRowPadding = 24;
static_assert(kQueryBlock % kRowPadding == 0);

constexpr double kInfinity = std::numeric_limits<double>::infinity();

using ColMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;
using RowMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using FloatRows = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;

Eigen::Index index(std::size_t i) {
  return static_cast<Eigen::Index>(i);
}

/// What one thread needs for a block of queries. Queries are the contiguous axis of q, s and o, so that maxima and sums
/// over keys run in vector lanes.
struct Workspace {
  ColMatrix q;                       ///< [n, d], times sm_scale
  RowMatrix k;                       ///< [keys, d]
  RowMatrix v;                       ///< [keys, d_v]
  ColMatrix s;                       ///< [n, keys]: scores, then P against the running maximum
  ColMatrix o;                       ///< [n, d_v], not yet normalised
  Eigen::ArrayXd m;                  ///< running maximum
  Eigen::ArrayXd l;                  ///< running sum of P
  Eigen::ArrayXd shift;              ///< the new maximum, 0 where no key was seen yet
  Eigen::ArrayXd alpha;              ///< factor from the old maximum to the new one
  Eigen::ArrayXd sum;                ///< of this key block
  std::vector<std::size_t> visible;  ///< keys that each row sees
};

/// Scores of keys that a row does not see become -infinity.
void mask(Workspace& w, std::size_t first_key) {
  for (std::size_t i = 0; i < w.visible.size(); ++i) {
    const std::size_t seen = w.visible[i] > first_key ? w.visible[i] - first_key : 0;
    for (Eigen::Index j = index(seen); j < w.s.cols(); ++j) w.s(index(i), j) = -kInfinity;
  }
}

/// Moves the running maximum to this block's scores and turns them into P = exp(S - maximum).
void online_softmax(Workspace& w) {
  const Eigen::Index n = w.s.rows();
  double* const m = w.m.data();
  double* const l = w.l.data();
  double* const shift = w.shift.data();
  double* const alpha = w.alpha.data();
  double* const sum = w.sum.data();

  w.shift = w.m;
  for (Eigen::Index j = 0; j < w.s.cols(); ++j) {
    const double* const s = w.s.col(j).data();
    for (Eigen::Index i = 0; i < n; ++i) shift[i] = s[i] > shift[i] ? s[i] : shift[i];
  }
  for (Eigen::Index i = 0; i < n; ++i) {
    const double old = m[i];
    m[i] = shift[i];
    shift[i] = shift[i] == -kInfinity ? 0.0 : shift[i];
    alpha[i] = exp_nonpositive(old - shift[i]);
    sum[i] = 0;
  }
  for (Eigen::Index j = 0; j < w.s.cols(); ++j) {
    double* const s = w.s.col(j).data();
    for (Eigen::Index i = 0; i < n; ++i) {
      const double p = exp_nonpositive(s[i] - shift[i]);
      s[i] = p;
      sum[i] += p;
    }
  }
  for (Eigen::Index i = 0; i < n; ++i) l[i] = l[i] * alpha[i] + sum[i];
}

/// O += P V. A masked P is 0, but 0 times infinity or NaN is NaN: where a hidden V is not finite, each row adds its
/// own.
void add_values(Workspace& w, std::size_t first_key, bool masked) {
  if (!masked || w.v.allFinite()) {
    w.o.noalias() += w.s * w.v;
    return;
  }
  for (std::size_t i = 0; i < w.visible.size(); ++i) {
    if (w.visible[i] <= first_key) continue;
    const Eigen::Index seen = std::min(index(w.visible[i] - first_key), w.s.cols());
    w.o.row(index(i)) += w.s.row(index(i)).head(seen).lazyProduct(w.v.topRows(seen));
  }
}

void attend(const HeadProblem& problem, std::span<const std::uint32_t> rows, Workspace& w, double* o, double* lse) {
  const Eigen::Index d = index(problem.q.cols);
  const Eigen::Index d_v = index(problem.v.cols);
  const Eigen::Index n = index((rows.size() + kRowPadding - 1) / kRowPadding * kRowPadding);
  w.q.setZero(n, d);
  w.visible.resize(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    // The product of two FP32 numbers is exact in FP64.
    w.q.row(index(i)) = FloatRows(problem.q.row(rows[i]), 1, d).cast<double>() * static_cast<double>(problem.sm_scale);
    w.visible[i] = problem.visible(rows[i]);
  }
  const auto [fewest, most] = std::minmax_element(w.visible.begin(), w.visible.end());
  w.o.setZero(n, d_v);
  w.m.setConstant(n, -kInfinity);
  w.l.setZero(n);
  w.shift.resize(n);
  w.alpha.resize(n);
  w.sum.resize(n);

  for (std::size_t first = 0; first < *most; first += kKeyBlock) {
    const std::size_t keys = std::min(kKeyBlock, *most - first);
    const bool masked = *fewest < first + keys;
    w.k = FloatRows(problem.k.row(first), index(keys), d).cast<double>();
    w.v = FloatRows(problem.v.row(first), index(keys), d_v).cast<double>();
    w.s.resize(n, index(keys));
    w.s.noalias() = w.q * w.k.transpose();
    if (masked) mask(w, first);
    online_softmax(w);
    if (!(w.alpha == 1.0).all()) w.o.array().colwise() *= w.alpha;
    add_values(w, first, masked);
  }

  for (std::size_t i = 0; i < rows.size(); ++i) {
    const bool blind = w.visible[i] == 0;
    Eigen::Map<Eigen::RowVectorXd> out(o + i * problem.v.cols, d_v);
    out = w.o.row(index(i));
    if (!blind) out /= w.l[index(i)];
    lse[i] = blind ? -kInfinity : w.m[index(i)] + std::log(w.l[index(i)]);
  }
}

}  // namespace

ExactOutput exact_attention(const HeadProblem& problem, std::span<const std::uint32_t> rows) {
  if (problem.q.cols != problem.k.cols || problem.k.rows != problem.v.rows) {
    throw std::invalid_argument("exact_attention: shapes of Q, K and V disagree");
  }
  std::vector<std::uint32_t> all;
  if (rows.empty()) {
    all.resize(problem.q.rows);
    std::iota(all.begin(), all.end(), 0U);
    rows = all;
  } else if (*std::max_element(rows.begin(), rows.end()) >= problem.q.rows) {
    throw std::invalid_argument("exact_attention: a query row beyond the last one was asked for");
  }

  ExactOutput out{rows.size(), problem.v.cols, {}, {}};
  out.o.resize(out.rows * out.cols);
  out.lse.resize(out.rows);
  const std::size_t blocks = (rows.size() + kQueryBlock - 1) / kQueryBlock;
#pragma omp parallel
  {
    Workspace workspace;
    // Causal blocks grow with the row: the longest first keeps all threads busy to the end.
#pragma omp for schedule(dynamic)
    for (std::size_t b = blocks; b > 0; --b) {
      const std::size_t first = (b - 1) * kQueryBlock;
      const auto block = rows.subspan(first, std::min(kQueryBlock, rows.size() - first));
      attend(problem, block, workspace, out.o.data() + first * out.cols, out.lse.data() + first);
    }
  }
  return out;
}

ExactBound exact_attention_bound(std::size_t head_dim, std::size_t keys, double max_score) {
  constexpr double u = 0x1p-53;
  constexpr double kSecondOrder = 1.01;
  const auto d = static_cast<double>(head_dim);
  const auto n = static_cast<double>(std::max<std::size_t>(keys, 1));
  const auto block = std::min(n, static_cast<double>(kKeyBlock));
  const double blocks = std::ceil(n / static_cast<double>(kKeyBlock));
  const double p = (d + 6) * u * max_score + kExpError + blocks * (kExpError + u);
  const double sum = (block + blocks) * u;
  return {.o = kSecondOrder * (2 * (p + sum) + 3 * u),
          .lse = kSecondOrder * (p + sum + u * (max_score + 3 * std::log(n)))};
}

}  // namespace sage2
