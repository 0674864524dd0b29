#include "harness/cell_bits.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "datasets/error.hpp"
#include "tests/datasets/capture_files.hpp"

namespace sage2 {
namespace {

using testing::TempDir;

class CellBitsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    CaptureWriter writer(dir_ / "a.h5", {"toy", "test", 0});
    auto cell = testing::small_cell();
    writer.begin_cell(cell);
    for (const auto name : {TensorName::q, TensorName::k, TensorName::v}) {
      const std::size_t heads = name == TensorName::q ? cell.shape.q_heads : cell.shape.kv_heads;
      for (std::size_t b = 0; b < cell.shape.batch; ++b) {
        for (std::size_t h = 0; h < heads; ++h) {
          auto m = testing::head_values(cell.shape, name, b, h);
          if (name == TensorName::v && b == 1 && h == 0) m(3, 5) = m(6, 0) = INFINITY;
          writer.write_head(name, b, h, m);
        }
      }
    }
    writer.finish();
  }
  TempDir dir_;
};

/// Kept or read again, the hash and the heads are those of the reader.
TEST_F(CellBitsTest, HoldsWhatTheReaderReads) {
  const CaptureReader reader(dir_ / "a.h5");
  const auto cell = reader.describe({});
  const std::size_t values = 2 * (4 * 5 + 2 * 7 + 2 * 7) * 8;
  EXPECT_EQ(stored_bytes(cell), values * 2);
  for (const std::size_t keep : {std::size_t{0}, std::size_t{1}, std::size_t{1} << 20}) {
    const CellBits bits(reader, cell, keep);
    EXPECT_EQ(bits.hash(), content_hash(reader, cell));
    for (const auto name : {TensorName::q, TensorName::k, TensorName::v}) {
      std::vector<std::byte> expected;
      reader.read_head_bits(cell, name, 1, 1, expected);
      EXPECT_EQ(*bits.head(name, 1, 1), expected);
    }
    // The same memory twice where it is kept, so that it is not read again.
    EXPECT_EQ(bits.head(TensorName::k, 0, 0) == bits.head(TensorName::k, 0, 0), keep > 1);
  }
}

TEST_F(CellBitsTest, SaysWhereValuesAreNotFinite) {
  const CaptureReader reader(dir_ / "a.h5");
  for (const std::size_t keep : {std::size_t{1}, std::size_t{1} << 20}) {
    const CellBits bits(reader, reader.describe({}), keep);
    EXPECT_NO_THROW(bits.check(TensorName::v, 0, 0));
    EXPECT_NO_THROW(bits.check(TensorName::q, 1, 0));
    const auto said = testing::message_of<DataError>([&] { bits.check(TensorName::v, 1, 0); });
    EXPECT_NE(said.find("2 of 56 values of batch 1, head 0 are not finite, the first at token 3, channel 5"),
              std::string::npos)
        << said;
  }
}

}  // namespace
}  // namespace sage2
