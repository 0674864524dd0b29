#include "datasets/synth.hpp"

#include <omp.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "datasets/error.hpp"
#include "datasets/inspect.hpp"
#include "gtest/gtest.h"
#include "tests/datasets/capture_files.hpp"

namespace sage2 {
namespace {

using testing::message_of;
using testing::TempDir;

constexpr std::uint64_t kSeed = 11;

CellInfo cell_of(const Shape& shape) {
  CellInfo cell;
  cell.shape = shape;
  cell.sm_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
  return cell;
}

/// Mean and standard deviation of a column.
std::pair<double, double> moments(const Matrix& m, std::size_t col) {
  double mean = 0, square = 0;
  for (std::size_t i = 0; i < m.rows; ++i) mean += static_cast<double>(m(i, col)) / static_cast<double>(m.rows);
  for (std::size_t i = 0; i < m.rows; ++i) {
    const double a = static_cast<double>(m(i, col)) - mean;
    square += a * a / static_cast<double>(m.rows);
  }
  return {mean, std::sqrt(square)};
}

/// Softmax weights of one query row, in FP64.
std::vector<double> weights(const Matrix& q, const Matrix& k, std::size_t row, std::size_t visible, float scale) {
  std::vector<double> w(visible);
  for (std::size_t j = 0; j < visible; ++j) {
    for (std::size_t c = 0; c < q.cols; ++c) w[j] += static_cast<double>(q(row, c)) * static_cast<double>(k(j, c));
    w[j] *= static_cast<double>(scale);
  }
  const double largest = *std::max_element(w.begin(), w.end());
  for (double& x : w) x = std::exp(x - largest);
  const double total = std::accumulate(w.begin(), w.end(), 0.0);
  for (double& x : w) x /= total;
  return w;
}

// The same bits on every platform: hashes of what this generator gives. A change of them is a change of every
// synthetic capture and must be announced.
TEST(Synth, GivesTheSameBitsAsEver) {
  CellInfo cell = cell_of({2, 4, 2, 40, 56, 24});
  cell.id = {3, 5, 1};
  cell.is_causal = true;
  std::string hashes;
  for (const SynthKindInfo& kind : synth_kinds()) {
    XXH64_hash_t hash = 0;
    for (const TensorName name : {TensorName::q, TensorName::k, TensorName::v}) {
      const Matrix m = synth_head(kind.kind, kSeed, cell, name, 1, 1);
      hash = XXH3_64bits_withSeed(m.data.data(), m.data.size() * sizeof(float), hash);
    }
    hashes += fmt::format("{} {:016x}\n", kind.name, hash);
  }
  EXPECT_EQ(hashes,
            "gaussian f4ff1522a45e72aa\n"
            "k-bias 4e5132caa87c7465\n"
            "cogvideox c1b759336df77c82\n"
            "outliers d201cc66b5c8307b\n"
            "sinks a260bf137105b3d3\n"
            "peaked 991a3d661de45800\n"
            "flat ec30d24dc925c514\n");
}

TEST(Synth, DoesNotDependOnThreadsOrOnWhatWasMadeBefore) {
  const CellInfo cell = cell_of({1, 2, 1, 300, 300, 64});
  const Matrix first = synth_head(SynthKind::peaked, kSeed, cell, TensorName::q, 0, 1);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  static_cast<void>(synth_head(SynthKind::peaked, kSeed, cell, TensorName::q, 0, 0));
  EXPECT_EQ(synth_head(SynthKind::peaked, kSeed, cell, TensorName::q, 0, 1).data, first.data);
  omp_set_num_threads(threads);
}

TEST(Synth, SeedsPlacesAndTensorsDiffer) {
  const CellInfo cell = cell_of({2, 2, 2, 16, 16, 32});
  std::vector<std::vector<float>> all;
  const auto add = [&](std::uint64_t seed, const CellInfo& c, TensorName name, std::size_t b, std::size_t h) {
    const Matrix m = synth_head(SynthKind::gaussian, seed, c, name, b, h);
    for (const auto& other : all) EXPECT_NE(other, m.data);
    all.push_back(m.data);
  };
  add(1, cell, TensorName::q, 0, 0);
  add(2, cell, TensorName::q, 0, 0);
  add(1, cell, TensorName::k, 0, 0);
  add(1, cell, TensorName::v, 0, 0);
  add(1, cell, TensorName::q, 1, 0);
  add(1, cell, TensorName::q, 0, 1);
  for (const CellId id : {CellId{1, 0, 0}, CellId{0, 1, 0}, CellId{0, 0, 1}}) {
    CellInfo other = cell;
    other.id = id;
    add(1, other, TensorName::q, 0, 0);
  }
}

// Every column of a Gaussian head: mean within 5/sqrt n of 0, standard deviation within 5/sqrt(2 n) of 1.
TEST(Synth, GaussianColumnsAreStandard) {
  const CellInfo cell = cell_of({1, 1, 1, 4096, 4096, 64});
  for (const TensorName name : {TensorName::q, TensorName::k, TensorName::v}) {
    const Matrix m = synth_head(SynthKind::gaussian, kSeed, cell, name, 0, 0);
    for (std::size_t c = 0; c < m.cols; ++c) {
      const auto [mean, deviation] = moments(m, c);
      EXPECT_TRUE(std::abs(mean) <= 5.0 / 64) << c;
      EXPECT_TRUE(std::abs(deviation - 1) <= 5.0 / 90.5) << c;
    }
  }
}

/// Columns of one head whose |mean| is within [low, high] (0.1 for sampling), as their number; the others must be 0.
std::size_t biased(const Matrix& m, double low, double high) {
  std::size_t count = 0;
  for (std::size_t c = 0; c < m.cols; ++c) {
    const double mean = std::abs(moments(m, c).first);
    if (mean <= 0.1) continue;
    EXPECT_TRUE(mean >= low - 0.1 && mean <= high + 0.1) << "column " << c << ": " << mean;
    ++count;
  }
  return count;
}

TEST(Synth, BiasesTheChannelsItSays) {
  const CellInfo cell = cell_of({1, 1, 1, 4096, 4096, 64});
  const auto head = [&](SynthKind kind, TensorName name) { return synth_head(kind, kSeed, cell, name, 0, 0); };
  EXPECT_EQ(biased(head(SynthKind::k_bias, TensorName::q), 0, 0), 0U);
  EXPECT_EQ(biased(head(SynthKind::k_bias, TensorName::k), 6, 10), 16U);
  EXPECT_EQ(biased(head(SynthKind::k_bias, TensorName::v), 0, 0), 0U);
  EXPECT_EQ(biased(head(SynthKind::cogvideox, TensorName::q), 3, 5), 16U);
  EXPECT_EQ(biased(head(SynthKind::cogvideox, TensorName::k), 4, 6), 16U);
  EXPECT_EQ(biased(head(SynthKind::cogvideox, TensorName::v), 8, 9), 32U);
}

TEST(Synth, OutlierChannelsAreTenTimesLargerAndApart) {
  const CellInfo cell = cell_of({1, 1, 1, 4096, 4096, 64});
  std::array<std::vector<std::size_t>, 3> outliers;
  for (std::size_t t = 0; t < 3; ++t) {
    const Matrix m = synth_head(SynthKind::outliers, kSeed, cell, static_cast<TensorName>(t), 0, 0);
    for (std::size_t c = 0; c < m.cols; ++c) {
      const double deviation = moments(m, c).second;
      if (deviation <= 1.1) continue;
      EXPECT_TRUE(std::abs(deviation - 10) <= 0.6);  // five standard errors
      outliers.at(t).push_back(c);
    }
    EXPECT_EQ(outliers.at(t).size(), 4U);
  }
  for (const std::size_t c : outliers[0]) {
    EXPECT_EQ(std::count(outliers[1].begin(), outliers[1].end(), c), 0) << "Q and K share outlier channel " << c;
  }
}

// The weights that the kinds promise, from an FP64 softmax over 64 rows: within a factor of two of the odds.
TEST(Synth, ScoresAreSunkPeakedAndFlatAsPromised) {
  const CellInfo cell = cell_of({1, 2, 1, 1024, 1024, 64});
  const auto mean_of = [&](SynthKind kind, auto&& statistic) {
    const Matrix q = synth_head(kind, kSeed, cell, TensorName::q, 0, 1);
    const Matrix k = synth_head(kind, kSeed, cell, TensorName::k, 0, 0);
    double sum = 0;
    for (std::size_t i = 0; i < 64; ++i) sum += statistic(weights(q, k, 16 * i, 1024, cell.sm_scale)) / 64;
    return sum;
  };
  const double sunk = mean_of(SynthKind::sinks, [](const auto& w) { return w[0] + w[1] + w[2] + w[3]; });
  EXPECT_TRUE(sunk >= 0.82 && sunk <= 0.95) << sunk;
  const auto top = [](const auto& w) { return *std::max_element(w.begin(), w.end()); };
  const double peak = mean_of(SynthKind::peaked, top);
  EXPECT_TRUE(peak >= 0.90 && peak <= 0.98) << peak;
  const double flat = mean_of(SynthKind::flat, top);
  EXPECT_TRUE(flat <= 1.25 / 1024) << flat;  // exp(0.05 x 4.5 sigma)
}

// Under a causal mask no query aims at a key that it cannot see, for either alignment.
TEST(Synth, PeaksAreVisible) {
  for (const CausalAlign align : {CausalAlign::bottom_right, CausalAlign::top_left}) {
    CellInfo cell = cell_of({1, 1, 1, 96, 128, 64});
    cell.is_causal = true;
    cell.causal_align = align;
    HeadProblem problem;
    problem.q = synth_head(SynthKind::peaked, kSeed, cell, TensorName::q, 0, 0);
    problem.k = synth_head(SynthKind::peaked, kSeed, cell, TensorName::k, 0, 0);
    problem.is_causal = true;
    problem.causal_align = align;
    double peak = 0;
    for (std::size_t i = 0; i < 96; ++i) {
      const auto w = weights(problem.q, problem.k, i, problem.visible(i), cell.sm_scale);
      peak += *std::max_element(w.begin(), w.end()) / 96;
    }
    EXPECT_TRUE(peak >= 0.9) << peak;
  }
}

TEST(Synth, WritesWhatItWasAskedFor) {
  const TempDir dir;
  SynthOptions options;
  options.kinds = {SynthKind::cogvideox, SynthKind::flat};
  options.layers = 3;
  options.timesteps = 2;
  options.samples = 2;
  options.shape = {2, 4, 2, 33, 65, 40};
  options.dtype = DType::bfloat16;
  options.layout = Layout::nhd;
  options.is_causal = true;
  options.seed = kSeed;
  std::size_t calls = 0;
  write_synthetic(dir / "s.h5", options, [&](std::size_t done, std::size_t total) {
    EXPECT_EQ(done, ++calls);
    EXPECT_EQ(total, 12U);
  });
  EXPECT_EQ(calls, 12U);
  const CaptureReader reader(dir / "s.h5");
  ASSERT_EQ(reader.cells().size(), 12U);
  const CellInfo cell = reader.describe({2, 1, 1});
  EXPECT_EQ(cell.layer_name, "layers.2.cogvideox");
  EXPECT_EQ(cell.shape, options.shape);
  EXPECT_EQ(cell.dtype, DType::bfloat16);
  EXPECT_EQ(cell.layout, Layout::nhd);
  EXPECT_TRUE(cell.is_causal);
  const Matrix written = reader.read_head(cell, TensorName::v, 1, 1);
  const Matrix made = synth_head(SynthKind::cogvideox, kSeed, cell, TensorName::v, 1, 1);
  for (std::size_t i = 0; i < made.data.size(); ++i) {  // bfloat16 keeps 8 bits: half an ulp is 2^-9 of the value
    ASSERT_TRUE(std::abs(written.data[i] - made.data[i]) <= std::abs(made.data[i]) * 0x1p-8F);
  }
}

TEST(Synth, RefusesNonsense) {
  const TempDir dir;
  const auto message = [&](auto&& change) {
    SynthOptions options;
    change(options);
    return message_of<UsageError>([&] { write_synthetic(dir / "s.h5", options); });
  };
  EXPECT_NE(message([](SynthOptions& o) { o.kinds.clear(); }).find("no kind"), std::string::npos);
  EXPECT_NE(message([](SynthOptions& o) { o.layers = 0; }).find("at least one layer"), std::string::npos);
  EXPECT_NE(message([](SynthOptions& o) { o.shape.q_len = 0; }).find("at least one element"), std::string::npos);
  EXPECT_NE(message([](SynthOptions& o) { o.shape.q_heads = 3, o.shape.kv_heads = 2; }).find("not a multiple"),
            std::string::npos);
  EXPECT_NE(message([](SynthOptions& o) { o.shape.head_dim = 512; }).find("above 256"), std::string::npos);
  EXPECT_NE(message([](SynthOptions& o) { o.gzip = 12; }).find("gzip level 12"), std::string::npos);
  EXPECT_NE(message_of<UsageError>([] { static_cast<void>(parse_synth_kind("k_bias")); }).find("gaussian, k-bias,"),
            std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(dir / "s.h5"));
}

}  // namespace
}  // namespace sage2
