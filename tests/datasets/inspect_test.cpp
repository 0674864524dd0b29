#include "datasets/inspect.hpp"

#include <array>
#include <cmath>
#include <limits>

#include "datasets/hdf5.hpp"
#include "datasets/synth.hpp"
#include "gtest/gtest.h"
#include "tests/datasets/capture_files.hpp"

namespace sage2 {
namespace {

using testing::head_values;
using testing::small_cell;
using testing::TempDir;
using testing::write_capture;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// By hand: columns (1, 3, 5, 7), all zero, all 2, (NaN, -inf, 4, 0).
TEST(Inspect, StatisticsOfAMatrixByHand) {
  Matrix m(4, 4);
  m.data = {1, 0, 2, kNan, 3, 0, 2, -kInf, 5, 0, 2, 4, 7, 0, 2, 0};
  const TensorStats s = matrix_stats(m);
  EXPECT_EQ(s.min, 0.0);
  EXPECT_EQ(s.max, 7.0);
  EXPECT_EQ(s.nan, 1U);
  EXPECT_EQ(s.inf, 1U);
  EXPECT_EQ(s.zero_rows, 0U);
  EXPECT_EQ(s.zero_channels, 1U);
  EXPECT_EQ(s.constant_channels, 1U);
  EXPECT_DOUBLE_EQ(s.bias, 4.0 / std::sqrt(5.0));  // mean 4, variance 5; the last column has 2 / 2
  EXPECT_EQ(s.bias_channel, 0U);
}

TEST(Inspect, StatisticsOfMatricesWithoutNumbers) {
  Matrix m(2, 2);
  TensorStats s = matrix_stats(m);
  EXPECT_EQ(s.zero_rows, 2U);
  EXPECT_EQ(s.zero_channels, 2U);
  EXPECT_EQ(s.bias, 0.0);
  EXPECT_EQ(s.max_abs(), 0.0);
  m.data.assign(4, kNan);
  s = matrix_stats(m);
  EXPECT_EQ(s.nan, 4U);
  EXPECT_EQ(s.min, 0.0);
  EXPECT_EQ(s.constant_channels, 0U);
}

// Longer than one block of rows: against one plain pass in long double.
TEST(Inspect, StatisticsOfALongMatrix) {
  CellInfo cell = small_cell();
  cell.shape = {1, 1, 1, 1000, 1000, 33};
  const Matrix m = synth_head(SynthKind::k_bias, 5, cell, TensorName::k, 0, 0);
  long double worst = 0;
  for (std::size_t c = 0; c < m.cols; ++c) {
    long double sum = 0, square = 0;
    for (std::size_t i = 0; i < m.rows; ++i) sum += m(i, c);
    const long double mean = sum / 1000;
    for (std::size_t i = 0; i < m.rows; ++i) square += (m(i, c) - mean) * (m(i, c) - mean);
    worst = std::max(worst, std::abs(mean) / std::sqrt(square / 1000));
  }
  // Sums of 1000 doubles: relative error below 1000 x 2^-53 in mean and square.
  EXPECT_TRUE(std::abs(matrix_stats(m).bias - static_cast<double>(worst)) <= 2000 * 0x1p-53 * matrix_stats(m).bias);
}

/// A capture of one cell with one change to its values.
template <typename F>
CellReport inspect_changed(F&& change) {
  const TempDir dir;
  const CellInfo cell = small_cell();
  {
    CaptureWriter writer(dir / "a.h5", {"m", "s"});
    writer.begin_cell(cell);
    for (const TensorName name : {TensorName::q, TensorName::k, TensorName::v}) {
      for (std::size_t b = 0; b < cell.shape.batch; ++b) {
        for (std::size_t h = 0; h < (name == TensorName::q ? cell.shape.q_heads : cell.shape.kv_heads); ++h) {
          Matrix m = head_values(cell.shape, name, b, h);
          change(name, b, h, m);
          writer.write_head(name, b, h, m);
        }
      }
    }
    writer.finish();
  }
  return inspect_cell(CaptureReader(dir / "a.h5"), {});
}

TEST(Inspect, ACellWithoutFaultIsSound) {
  const CellReport report = inspect_changed([](auto...) {});
  EXPECT_TRUE(report.problems.empty());
  EXPECT_TRUE(report.warnings.empty());
  EXPECT_EQ(report.tensors[0].min, -127.0);
  EXPECT_FALSE(report.output.has_value());
}

TEST(Inspect, NamesTensorsThatAreNotFinite) {
  const CellReport report = inspect_changed([](TensorName name, std::size_t b, std::size_t h, Matrix& m) {
    if (name == TensorName::k && b == 1 && h == 1) m(3, 3) = kNan;
    if (name == TensorName::v && b == 0) m(0, 0) = kInf;
  });
  ASSERT_EQ(report.problems.size(), 2U);
  EXPECT_NE(report.problems[0].find("000/k': 1 NaN, 0 infinities"), std::string::npos);
  EXPECT_NE(report.problems[1].find("000/v': 0 NaN, 2 infinities"), std::string::npos);
}

TEST(Inspect, WarnsOfZeroRowsAndChannels) {
  const CellReport report = inspect_changed([](TensorName name, std::size_t b, std::size_t h, Matrix& m) {
    if (b != 0 || h != 0) return;
    if (name == TensorName::q) std::fill_n(m.row(2), m.cols, 0.0F);
    for (std::size_t i = 0; i < m.rows && name == TensorName::v; ++i) m(i, 5) = 0.0F;
  });
  EXPECT_TRUE(report.problems.empty());
  ASSERT_EQ(report.warnings.size(), 2U);
  EXPECT_NE(report.warnings[0].find("000/q': 1 all-zero rows"), std::string::npos);
  EXPECT_NE(report.warnings[1].find("000/v': 1 all-zero channels"), std::string::npos);
}

TEST(Inspect, ReportsACellThatCannotBeRead) {
  const TempDir dir;
  write_capture(dir / "a.h5", small_cell());
  {
    const h5::Handle file(H5Fopen((dir / "a.h5").c_str(), H5F_ACC_RDWR, H5P_DEFAULT));
    H5Ldelete(file.get(), "/layers/000/0000/000/v", H5P_DEFAULT);
  }
  const CellReport report = inspect_cell(CaptureReader(dir / "a.h5"), {});
  EXPECT_FALSE(report.info.has_value());
  ASSERT_EQ(report.problems.size(), 1U);
  EXPECT_NE(report.problems[0].find("dataset v is missing"), std::string::npos);
}

/// Adds dataset o to a capture of one cell: the mean of V over the visible keys, which is attention when Q is zero.
void add_output(const std::filesystem::path& file, const Shape& s, float factor) {
  const h5::Handle handle(H5Fopen(file.c_str(), H5F_ACC_RDWR, H5P_DEFAULT));
  std::vector<float> values;
  for (std::size_t b = 0; b < s.batch; ++b) {
    for (std::size_t h = 0; h < s.q_heads; ++h) {
      const Matrix v = head_values(s, TensorName::v, b, s.kv_head(h));
      for (std::size_t i = 0; i < s.q_len; ++i) {
        const std::size_t visible = i + 1 + s.kv_len - s.q_len;  // bottom right
        for (std::size_t c = 0; c < s.head_dim; ++c) {
          float sum = 0;
          for (std::size_t j = 0; j < visible; ++j) sum += v(j, c);
          values.push_back(factor * sum / static_cast<float>(visible));
        }
      }
    }
  }
  const std::array<hsize_t, 4> dims{s.batch, s.q_heads, s.q_len, s.head_dim};
  const h5::Handle space(H5Screate_simple(4, dims.data(), nullptr));
  const h5::Handle dataset(H5Dcreate2(handle.get(), "/layers/000/0000/000/o", H5T_IEEE_F32LE, space.get(), H5P_DEFAULT,
                                      H5P_DEFAULT, H5P_DEFAULT));
  ASSERT_GE(H5Dwrite(dataset.get(), H5T_IEEE_F32LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
}

TEST(Inspect, ProvesTheLayoutByTheModelsOwnOutput) {
  for (const float factor : {1.0F, 0.9F, kNan}) {
    const TempDir dir;
    CellInfo cell = small_cell();
    cell.is_causal = true;
    {
      CaptureWriter writer(dir / "a.h5", {"m", "s"});
      writer.begin_cell(cell);
      for (const TensorName name : {TensorName::q, TensorName::k, TensorName::v}) {
        for (std::size_t b = 0; b < cell.shape.batch; ++b) {
          for (std::size_t h = 0; h < (name == TensorName::q ? cell.shape.q_heads : cell.shape.kv_heads); ++h) {
            Matrix m = head_values(cell.shape, name, b, h);
            if (name == TensorName::q) std::fill(m.data.begin(), m.data.end(), 0.0F);
            writer.write_head(name, b, h, m);
          }
        }
      }
      writer.finish();
    }
    add_output(dir / "a.h5", cell.shape, factor);
    const CellReport report = inspect_cell(CaptureReader(dir / "a.h5"), {});
    ASSERT_TRUE(report.output.has_value());
    EXPECT_EQ(report.output->proved(), factor == 1.0F);
    EXPECT_EQ(report.problems.empty(), factor == 1.0F);
    if (factor == 1.0F) {
      EXPECT_EQ(report.output->rows, 8U * 4U);
      EXPECT_TRUE(report.output->worst_error <= 1e-5);  // FP32 sums of 7 integers, one division
    } else {
      EXPECT_NE(report.problems[0].find("000/o': differs from attention of q, k and v"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace sage2
