#include <bit>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "datasets/capture.hpp"
#include "datasets/capture_writer.hpp"
#include "datasets/convert.hpp"
#include "gtest/gtest.h"
#include "tests/datasets/capture_files.hpp"

// h5py and NumPy as independent peers: they write, we read; we write, they read.
namespace sage2 {
namespace {

using testing::small_cell;
using testing::TempDir;
using testing::write_cell;

int run_peer(const std::string& mode, const std::filesystem::path& path) {
  const std::string command =
      fmt::format("'{}' '{}/tests/datasets/h5py_peer.py' {} '{}'", SAGE2_PYTHON, SAGE2_SOURCE_DIR, mode, path.string());
  return std::system(command.c_str());  // NOLINT: one thread, and a command of our own
}

template <typename T>
std::vector<T> load(const std::filesystem::path& file) {
  std::vector<T> values(std::filesystem::file_size(file) / sizeof(T));
  std::ifstream in(file, std::ios::binary);
  in.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(T)));
  EXPECT_TRUE(in);
  return values;
}

class H5py : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::string(SAGE2_PYTHON).empty()) GTEST_SKIP() << "no Python with NumPy and h5py";
  }
};

// Every code of both formats, in every form that h5py can write.
TEST_F(H5py, WritesEveryFormAndWeReadIt) {
  const TempDir dir;
  ASSERT_EQ(run_peer("write", dir / ""), 0);
  const CaptureReader reader(dir / "forms.h5");
  ASSERT_EQ(reader.cells().size(), 9U);
  for (const CellId& id : reader.cells()) {
    const CellInfo cell = reader.describe(id);
    EXPECT_EQ(cell.layer_name, "codes");
    EXPECT_EQ(cell.is_causal, id.layer % 2 == 1);
    const auto expected = load<float>(dir / fmt::format("expected_{}.f32", id.layer));
    ASSERT_EQ(expected.size(), 65536U);
    for (std::size_t h = 0; h < 4; ++h) {
      const Matrix q = reader.read_head(cell, TensorName::q, 0, h);
      ASSERT_EQ(q.data.size(), 16384U);
      for (std::size_t i = 0; i < q.data.size(); ++i) {
        const float e = expected[h * q.data.size() + i];
        if (std::isnan(e)) {
          ASSERT_TRUE(std::isnan(q.data[i])) << "layer " << id.layer << " code " << h * q.data.size() + i;
        } else {
          ASSERT_EQ(std::bit_cast<std::uint32_t>(q.data[i]), std::bit_cast<std::uint32_t>(e))
              << "layer " << id.layer << " code " << h * q.data.size() + i;
        }
      }
    }
  }
  const auto values = load<float>(dir / "values.f32");
  std::vector<std::uint16_t> narrow(values.size());
  narrow_float16(values, narrow);
  EXPECT_EQ(narrow, load<std::uint16_t>(dir / "float16.u16"));
  narrow_bfloat16(values, narrow);
  EXPECT_EQ(narrow, load<std::uint16_t>(dir / "bfloat16.u16"));
}

TEST_F(H5py, ReadsWhatWeWrite) {
  const TempDir dir;
  {
    CaptureWriter writer(dir / "ours.h5", {"m", "s", 4});
    for (const DType dtype : {DType::float16, DType::bfloat16, DType::float32}) {
      CellInfo cell = small_cell();
      cell.id.layer = static_cast<int>(dtype);
      cell.dtype = dtype;
      write_cell(writer, cell);
    }
    writer.finish();
  }
  EXPECT_EQ(run_peer("check", dir / "ours.h5"), 0);
}

}  // namespace
}  // namespace sage2
