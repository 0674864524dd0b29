#include <array>
#include <cmath>
#include <limits>

#include "datasets/capture.hpp"
#include "datasets/capture_writer.hpp"
#include "datasets/convert.hpp"
#include "datasets/error.hpp"
#include "datasets/hdf5.hpp"
#include "datasets/stored_type.hpp"
#include "gtest/gtest.h"
#include "tests/datasets/capture_files.hpp"

namespace sage2 {
namespace {

using testing::head_values;
using testing::message_of;
using testing::small_cell;
using testing::TempDir;
using testing::value_at;
using testing::write_capture;
using testing::write_cell;

void expect_whole(const CaptureReader& reader, const CellInfo& cell, std::size_t tensor, TensorName name) {
  const std::size_t heads = name == TensorName::q ? cell.shape.q_heads : cell.shape.kv_heads;
  for (std::size_t b = 0; b < cell.shape.batch; ++b) {
    for (std::size_t h = 0; h < heads; ++h) {
      const Matrix found = reader.read_head(cell, name, b, h);
      EXPECT_EQ(found.rows, name == TensorName::q ? cell.shape.q_len : cell.shape.kv_len);
      EXPECT_EQ(found.data, head_values(cell.shape, static_cast<TensorName>(tensor), b, h).data)
          << to_string(name) << " batch " << b << " head " << h;
    }
  }
}

void expect_whole(const CaptureReader& reader, const CellInfo& cell) {
  for (std::size_t t = 0; t < 3; ++t) expect_whole(reader, cell, t, static_cast<TensorName>(t));
}

// Every format, layout and compression; grouped heads, unequal lengths, several batches.
TEST(CaptureReader, ReadsBackWhatTheWriterWrote) {
  const TempDir dir;
  for (const DType dtype : {DType::float16, DType::bfloat16, DType::float32}) {
    for (const Layout layout : {Layout::hnd, Layout::nhd}) {
      for (const int gzip : {0, 4}) {
        CellInfo cell = small_cell();
        cell.id = {3, 17, 2};
        cell.dtype = dtype;
        cell.layout = layout;
        cell.is_causal = true;
        cell.causal_align = CausalAlign::top_left;
        cell.timestep_value = 998.4;
        cell.sample_name = "a cat";
        cell.cfg_branch = "cond";
        cell.seed = 42;
        const auto file = dir / "a.h5";
        write_capture(file, cell, gzip);
        const CaptureReader reader(file);
        EXPECT_EQ(reader.model(), "test model");
        EXPECT_EQ(reader.source(), "test source");
        ASSERT_EQ(reader.cells(), std::vector<CellId>{cell.id});
        const CellInfo found = reader.describe(cell.id);
        EXPECT_EQ(found.shape, cell.shape);
        EXPECT_EQ(found.dtype, dtype);
        EXPECT_EQ(found.layout, layout);
        EXPECT_TRUE(found.is_causal);
        EXPECT_EQ(found.causal_align, CausalAlign::top_left);
        EXPECT_EQ(found.sm_scale, 0.25F);
        EXPECT_EQ(found.layer_name, "blocks.0.attn");
        EXPECT_EQ(found.timestep_value, 998.4);
        EXPECT_EQ(found.sample_name, "a cat");
        EXPECT_EQ(found.cfg_branch, "cond");
        EXPECT_EQ(found.seed, 42);
        EXPECT_EQ(found.paths[1], "/layers/003/0017/002/k");
        expect_whole(reader, found);
      }
    }
  }
}

TEST(CaptureReader, GivesEachQueryHeadItsKeyValueHead) {
  const TempDir dir;
  write_capture(dir / "a.h5", small_cell());
  const CaptureReader reader(dir / "a.h5");
  const CellInfo cell = reader.describe({});
  const HeadProblem problem = reader.read_problem(cell, 1, 3);  // heads 2 and 3 share key/value head 1
  EXPECT_EQ(problem.q(4, 7), value_at(0, 1, 3, 4, 7));
  EXPECT_EQ(problem.k(6, 2), value_at(1, 1, 1, 6, 2));
  EXPECT_EQ(problem.v(6, 2), value_at(2, 1, 1, 6, 2));
  EXPECT_EQ(problem.sm_scale, 0.25F);
}

TEST(CaptureReader, ListsCellsInOrder) {
  const TempDir dir;
  {
    CaptureWriter writer(dir / "a.h5", {"m", "s"});
    for (const CellId id : {CellId{1, 0, 0}, CellId{0, 10, 1}, CellId{0, 10, 0}, CellId{0, 2, 0}}) {
      CellInfo cell = small_cell();
      cell.id = id;
      write_cell(writer, cell);
    }
    writer.finish();
  }
  const CaptureReader reader(dir / "a.h5");
  EXPECT_EQ(reader.cells(), (std::vector<CellId>{{0, 2, 0}, {0, 10, 0}, {0, 10, 1}, {1, 0, 0}}));
  EXPECT_NE(message_of<UsageError>([&] {
              static_cast<void>(reader.describe({7, 0, 0}));
            }).find("no cell of layer 7"),
            std::string::npos);
}

TEST(CaptureReader, ReturnsNonFiniteValuesAsTheyAre) {
  const TempDir dir;
  CellInfo cell = small_cell();
  cell.shape = {1, 1, 1, 3, 3, 4};
  CaptureWriter writer(dir / "a.h5", {"m", "s"});
  writer.begin_cell(cell);
  Matrix m = head_values(cell.shape, TensorName::q, 0, 0);
  writer.write_head(TensorName::v, 0, 0, m);
  writer.write_head(TensorName::k, 0, 0, m);
  m(1, 2) = std::numeric_limits<float>::quiet_NaN();
  m(2, 0) = -std::numeric_limits<float>::infinity();
  writer.write_head(TensorName::q, 0, 0, m);
  writer.finish();
  const CaptureReader reader(dir / "a.h5");
  const CellInfo info = reader.describe({});
  const Matrix q = reader.read_head(info, TensorName::q, 0, 0);
  EXPECT_TRUE(std::isnan(q(1, 2)));
  EXPECT_EQ(q(2, 0), -std::numeric_limits<float>::infinity());
  const auto found = first_nonfinite(q);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->row, 1U);
  EXPECT_EQ(found->col, 2U);
  EXPECT_EQ(found->count, 2U);
  EXPECT_FALSE(first_nonfinite(reader.read_head(info, TensorName::k, 0, 0)).has_value());
}

/// Replaces dataset q by one of another HDF5 type that holds the same values, given as bits.
void replace_q(const std::filesystem::path& file, hid_t type, const std::string& attribute, const void* bits,
               const Shape& s) {
  const h5::Handle handle(H5Fopen(file.c_str(), H5F_ACC_RDWR, H5P_DEFAULT));
  const std::string path = "/layers/000/0000/000/q";
  H5Ldelete(handle.get(), path.c_str(), H5P_DEFAULT);
  const std::array<hsize_t, 4> dims{s.batch, s.q_heads, s.q_len, s.head_dim};
  const h5::Handle space(H5Screate_simple(4, dims.data(), nullptr));
  const h5::Handle dataset(
      H5Dcreate2(handle.get(), path.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  ASSERT_TRUE(dataset);
  ASSERT_TRUE(attribute.empty() || h5::write_attribute(dataset.get(), "dtype", attribute));
  ASSERT_GE(H5Dwrite(dataset.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bits), 0);
}

// The same values stored in each form read as the same matrix.
TEST(CaptureReader, ReadsEveryStoredForm) {
  const TempDir dir;
  const CellInfo cell = small_cell();
  const Shape& s = cell.shape;
  std::vector<float> values;
  for (std::size_t b = 0; b < s.batch; ++b) {
    for (std::size_t h = 0; h < s.q_heads; ++h) {
      const Matrix m = head_values(s, TensorName::q, b, h);
      values.insert(values.end(), m.data.begin(), m.data.end());
    }
  }
  std::vector<std::uint16_t> half(values.size()), brain(values.size());
  narrow_float16(values, half);
  narrow_bfloat16(values, brain);
  auto swapped_brain = brain;
  swap_bytes(std::span(swapped_brain));
  auto swapped_half = half;
  swap_bytes(std::span(swapped_half));
  std::vector<std::uint32_t> swapped_single(values.size());
  std::copy(values.begin(), values.end(), reinterpret_cast<float*>(swapped_single.data()));
  swap_bytes(std::span(swapped_single));

  const h5::Handle half_type = make_stored_type(DType::float16);
  const h5::Handle half_big(H5Tcopy(half_type.get()));
  H5Tset_order(half_big.get(), H5T_ORDER_BE);
  h5::Handle brain_type(H5Tcopy(H5T_IEEE_F32LE));
  H5Tset_fields(brain_type.get(), 15, 7, 8, 0, 7);
  H5Tset_size(brain_type.get(), 2);
  H5Tset_ebias(brain_type.get(), 127);
  const h5::Handle brain_bias15(H5Tcopy(brain_type.get()));
  H5Tset_ebias(brain_bias15.get(), 15);
  const h5::Handle opaque(H5Tcreate(H5T_OPAQUE, 2));
  H5Tset_tag(opaque.get(), "NUMPY:|V2");

  struct Form {
    const char* name;
    hid_t type;
    const char* attribute;
    const void* bits;
    DType dtype;
  };
  const std::vector<Form> forms{
      {"float16", half_type.get(), "", half.data(), DType::float16},
      {"float16 big-endian", half_big.get(), "", swapped_half.data(), DType::float16},
      {"bfloat16 float", brain_type.get(), "", brain.data(), DType::bfloat16},
      {"bfloat16 float, bias 15", brain_bias15.get(), "", brain.data(), DType::bfloat16},
      {"bfloat16 uint16", H5T_STD_U16LE, "bfloat16", brain.data(), DType::bfloat16},
      {"bfloat16 uint16 big-endian", H5T_STD_U16BE, "bfloat16", swapped_brain.data(), DType::bfloat16},
      {"bfloat16 opaque", opaque.get(), "bfloat16", brain.data(), DType::bfloat16},
      {"float32", H5T_IEEE_F32LE, "float32", values.data(), DType::float32},
      {"float32 big-endian", H5T_IEEE_F32BE, "", swapped_single.data(), DType::float32},
  };
  for (const Form& form : forms) {
    SCOPED_TRACE(form.name);
    const auto file = dir / "form.h5";
    write_capture(file, cell);
    replace_q(file, form.type, form.attribute, form.bits, s);
    const CaptureReader reader(file);
    const CellInfo info = reader.describe({});
    EXPECT_EQ(info.dtypes[0], form.dtype);
    EXPECT_EQ(info.dtypes[1], DType::float16);
    EXPECT_EQ(info.dtype, std::max(form.dtype, DType::float16));
    expect_whole(reader, info);
  }
}

// A foreign file: no schema, tensors first, attributes at the file's root, default scale.
TEST(CaptureReader, ReadsForeignFilesByTemplate) {
  const TempDir dir;
  const auto file = dir / "foreign.h5";
  const Shape s = small_cell().shape;
  {
    h5::prepare();
    const h5::Handle handle(H5Fcreate(file.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
    ASSERT_TRUE(h5::write_attribute(handle.get(), "is_causal", std::int64_t{1}));
    const h5::Handle links(H5Pcreate(H5P_LINK_CREATE));
    H5Pset_create_intermediate_group(links.get(), 1);
    for (int step = 0; step < 2; ++step) {
      for (std::size_t t = 0; t < 3; ++t) {
        const std::size_t heads = t == 0 ? s.q_heads : s.kv_heads;
        const std::size_t length = t == 0 ? s.q_len : s.kv_len;
        std::vector<float> values(s.batch * length * heads * s.head_dim);
        for (std::size_t b = 0; b < s.batch; ++b) {
          for (std::size_t h = 0; h < heads; ++h) {
            for (std::size_t i = 0; i < length; ++i) {
              for (std::size_t j = 0; j < s.head_dim; ++j) {
                values[((b * length + i) * heads + h) * s.head_dim + j] = value_at(t, b, h, i, j);
              }
            }
          }
        }
        const std::array<hsize_t, 4> dims{s.batch, length, heads, s.head_dim};
        const h5::Handle space(H5Screate_simple(4, dims.data(), nullptr));
        const std::string path = fmt::format("/step{}/attn_5/{}", step, std::array{"query", "key", "value"}.at(t));
        const h5::Handle dataset(
            H5Dcreate2(handle.get(), path.c_str(), H5T_IEEE_F32LE, space.get(), links.get(), H5P_DEFAULT, H5P_DEFAULT));
        ASSERT_GE(H5Dwrite(dataset.get(), H5T_IEEE_F32LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
      }
    }
  }
  ReaderOptions options;
  options.path_template = "/step{timestep}/attn_{layer}/{tensor}";
  options.layout = Layout::nhd;
  {
    const CaptureReader reader(file, options);
    EXPECT_EQ(reader.cells(), (std::vector<CellId>{{5, 0, 0}, {5, 1, 0}}));
    const CellInfo cell = reader.describe({5, 1, 0});
    EXPECT_EQ(cell.shape, s);
    EXPECT_TRUE(cell.is_causal);
    EXPECT_EQ(cell.sm_scale, 1.0F / std::sqrt(8.0F));
    EXPECT_EQ(cell.layer_name, "layer 5");
    EXPECT_EQ(cell.timestep_value, 1.0);
    expect_whole(reader, cell);
  }
  options.sm_scale = 0.5F;
  options.is_causal = false;  // the attribute of the file goes first
  const CaptureReader reader(file, options);
  EXPECT_EQ(reader.describe({5, 0, 0}).sm_scale, 0.5F);
  EXPECT_TRUE(reader.describe({5, 0, 0}).is_causal);
  options.sm_scale = -1.0F;
  EXPECT_NE(message_of<DataError>([&] {
              static_cast<void>(CaptureReader(file, options).describe({5, 0, 0}));
            }).find("positive finite"),
            std::string::npos);
}

TEST(CaptureReader, ReadsTheBundledCaptures) {
  const std::string folder = std::string(SAGE2_SOURCE_DIR) + "/datasets/samples/";
  const CaptureReader dit(folder + "dit.h5");
  EXPECT_EQ(dit.cells().size(), 9U);
  EXPECT_EQ(dit.describe({2, 12, 0}).shape, (Shape{1, 1, 1, 1024, 1024, 64}));
  const CaptureReader lm(folder + "lm.h5");
  const CellInfo cell = lm.describe(lm.cells().back());
  EXPECT_EQ(cell.shape, (Shape{1, 4, 2, 384, 384, 128}));
  EXPECT_TRUE(cell.is_causal);
  EXPECT_FALSE(first_nonfinite(lm.read_head(cell, TensorName::q, 0, 3)).has_value());
}

}  // namespace
}  // namespace sage2
