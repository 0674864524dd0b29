#include <fstream>
#include <set>

#include "datasets/capture.hpp"
#include "gtest/gtest.h"
#include "tests/datasets/capture_files.hpp"

namespace sage2 {
namespace {

using testing::head_values;
using testing::small_cell;
using testing::TempDir;
using testing::write_capture;

std::string hash_of(const CellInfo& cell, int gzip = 0) {
  const TempDir dir;
  write_capture(dir / "a.h5", cell, gzip);
  const CaptureReader reader(dir / "a.h5");
  return content_hash(reader, reader.describe(cell.id));
}

TEST(ContentHash, DependsNeitherOnNameNorLayoutNorCompressionNorPlace) {
  const CellInfo cell = small_cell();
  const std::string expected = hash_of(cell);
  EXPECT_EQ(expected.size(), 32U);
  CellInfo other = cell;
  other.layout = Layout::nhd;
  EXPECT_EQ(hash_of(other), expected);
  EXPECT_EQ(hash_of(other, 4), expected);
  other.id = {5, 6, 7};
  other.layer_name = "elsewhere";
  other.timestep_value = 3;
  EXPECT_EQ(hash_of(other), expected);
}

TEST(ContentHash, DependsOnAllThatChangesTheProblem) {
  std::set<std::string> hashes{hash_of(small_cell())};
  const auto expect_new = [&](const CellInfo& cell) { EXPECT_TRUE(hashes.insert(hash_of(cell)).second); };
  CellInfo cell = small_cell();
  cell.is_causal = true;
  expect_new(cell);
  cell.causal_align = CausalAlign::top_left;
  expect_new(cell);
  cell = small_cell();
  cell.sm_scale = 0.5F;
  expect_new(cell);
  for (const DType dtype : {DType::bfloat16, DType::float32}) {
    cell = small_cell();
    cell.dtype = dtype;
    expect_new(cell);
  }
  cell = small_cell();
  cell.shape.q_len = 6;
  expect_new(cell);
}

TEST(ContentHash, DependsOnEveryTensorsValues) {
  const TempDir dir;
  const CellInfo cell = small_cell();
  std::set<std::string> hashes{hash_of(cell)};
  for (const TensorName changed : {TensorName::q, TensorName::k, TensorName::v}) {
    CaptureWriter writer(dir / "a.h5", {"m", "s"});
    writer.begin_cell(cell);
    for (const TensorName name : {TensorName::q, TensorName::k, TensorName::v}) {
      for (std::size_t b = 0; b < cell.shape.batch; ++b) {
        for (std::size_t h = 0; h < (name == TensorName::q ? cell.shape.q_heads : cell.shape.kv_heads); ++h) {
          Matrix m = head_values(cell.shape, name, b, h);
          if (name == changed && b == 1 && h == 1) m(m.rows - 1, m.cols - 1) += 1.0F;
          writer.write_head(name, b, h, m);
        }
      }
    }
    writer.finish();
    const CaptureReader reader(dir / "a.h5");
    EXPECT_TRUE(hashes.insert(content_hash(reader, reader.describe({}))).second);
  }
}

TEST(FileFingerprint, TellsFilesApartBySizeAndEnds) {
  const TempDir dir;
  const std::string mib(std::size_t{1} << 20, 'a');
  const auto fingerprint = [&](const std::string& content) {
    std::ofstream(dir / "f", std::ios::binary) << content;
    return file_fingerprint(dir / "f");
  };
  const std::string base = fingerprint(mib + "middle" + mib);
  EXPECT_EQ(base.size(), 32U);
  EXPECT_EQ(base, fingerprint(mib + "middle" + mib));
  EXPECT_EQ(base, fingerprint(mib + "centre" + mib)) << "the middle is not read";
  EXPECT_NE(base, fingerprint(std::string("b").append(mib, 1).append("middle").append(mib)));
  EXPECT_NE(base, fingerprint(mib + "middle" + mib.substr(1) + "b"));
  EXPECT_NE(base, fingerprint(mib + "middle." + mib));
  EXPECT_NE(fingerprint(""), fingerprint("x"));
}

}  // namespace
}  // namespace sage2
