#include <array>
#include <cstdint>
#include <fstream>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "datasets/capture.hpp"
#include "datasets/error.hpp"
#include "datasets/hdf5.hpp"
#include "datasets/stored_type.hpp"
#include "gtest/gtest.h"
#include "tests/datasets/capture_files.hpp"

// Each case damages one thing in a sound file; the sentence must name the file, the place, and both what was expected
// and what was found.
namespace sage2 {
namespace {

using testing::message_of;
using testing::small_cell;
using testing::TempDir;
using testing::write_capture;

constexpr const char* kCell = "/layers/000/0000/000";

/// Opens the file, and describes and reads every cell, as a command does.
void read_all(const std::filesystem::path& file, const ReaderOptions& options = {}) {
  const CaptureReader reader(file, options);
  for (const CellId& id : reader.cells()) {
    const CellInfo cell = reader.describe(id);
    for (const TensorName name : {TensorName::q, TensorName::k, TensorName::v}) {
      static_cast<void>(reader.read_head(cell, name, 0, 0));
    }
  }
}

template <typename T>
void set_attribute(hid_t file, const char* object, const char* name, const T& value) {
  const h5::Handle handle(H5Oopen(file, object, H5P_DEFAULT));
  if (H5Aexists(handle.get(), name) > 0) H5Adelete(handle.get(), name);
  ASSERT_TRUE(h5::write_attribute(handle.get(), name, value));
}

void drop_attribute(hid_t file, const char* object, const char* name) {
  const h5::Handle handle(H5Oopen(file, object, H5P_DEFAULT));
  ASSERT_GE(H5Adelete(handle.get(), name), 0);
}

/// Replaces a dataset of the cell by one of the given shape and type, filled with zeros.
void replace(hid_t file, const char* tensor, const std::vector<hsize_t>& dims, hid_t type = -1, bool write = true) {
  const std::string path = std::string(kCell) + "/" + tensor;
  H5Ldelete(file, path.c_str(), H5P_DEFAULT);
  const h5::Handle half = make_stored_type(DType::float16);
  if (type < 0) type = half.get();
  const h5::Handle space(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr));
  const h5::Handle dataset(H5Dcreate2(file, path.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  ASSERT_TRUE(dataset);
  const std::vector<char> zeros(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space.get())) * 8);
  if (write && !zeros.empty()) {
    ASSERT_GE(H5Dwrite(dataset.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, zeros.data()), 0);
  }
}

struct Damage {
  const char* name;
  std::function<void(hid_t)> apply;
  std::vector<std::string> words;
};

std::vector<Damage> damages() {
  return {
      {"no schema", [](hid_t f) { drop_attribute(f, "/", "schema"); }, {"not a capture", "schema=\"sage2-capture\""}},
      {"other schema",
       [](hid_t f) { set_attribute(f, "/", "schema", std::string("weights")); },
       {"attribute schema: expected \"sage2-capture\", found \"weights\""}},
      {"newer schema",
       [](hid_t f) { set_attribute(f, "/", "schema_version", std::int64_t{2}); },
       {"schema_version: expected 1, the newest", "found 2"}},
      {"no schema version", [](hid_t f) { drop_attribute(f, "/", "schema_version"); }, {"schema_version is missing"}},
      {"schema version is text",
       [](hid_t f) { set_attribute(f, "/", "schema_version", std::string("one")); },
       {"schema_version: expected an integer, found \"one\""}},
      {"no model", [](hid_t f) { drop_attribute(f, "/", "model"); }, {"attribute model is missing"}},
      {"no source", [](hid_t f) { drop_attribute(f, "/", "source"); }, {"attribute source is missing"}},
      {"no layer", [](hid_t f) { drop_attribute(f, kCell, "layer"); }, {kCell, "attribute layer is missing"}},
      {"no layer_name", [](hid_t f) { drop_attribute(f, kCell, "layer_name"); }, {kCell, "layer_name is missing"}},
      {"no timestep", [](hid_t f) { drop_attribute(f, kCell, "timestep"); }, {kCell, "timestep is missing"}},
      {"no timestep_value",
       [](hid_t f) { drop_attribute(f, kCell, "timestep_value"); },
       {kCell, "timestep_value is missing"}},
      {"no sample", [](hid_t f) { drop_attribute(f, kCell, "sample"); }, {kCell, "attribute sample is missing"}},
      {"no is_causal", [](hid_t f) { drop_attribute(f, kCell, "is_causal"); }, {kCell, "is_causal is missing"}},
      {"no sm_scale", [](hid_t f) { drop_attribute(f, kCell, "sm_scale"); }, {kCell, "sm_scale is missing"}},
      {"layer of another path",
       [](hid_t f) { set_attribute(f, kCell, "layer", std::int64_t{4}); },
       {kCell, "attribute layer: expected 0 as in the path, found 4"}},
      {"is_causal 2",
       [](hid_t f) { set_attribute(f, kCell, "is_causal", std::int64_t{2}); },
       {kCell, "is_causal: expected 0 or 1, found 2"}},
      {"layout HDN",
       [](hid_t f) { set_attribute(f, kCell, "layout", std::string("HDN")); },
       {kCell, "layout: expected \"HND\" or \"NHD\", found \"HDN\""}},
      {"causal_align left",
       [](hid_t f) { set_attribute(f, kCell, "causal_align", std::string("left")); },
       {kCell, "causal_align: expected", "found \"left\""}},
      {"zero scale",
       [](hid_t f) { set_attribute(f, kCell, "sm_scale", 0.0); },
       {kCell, "sm_scale: expected a positive finite number, found 0"}},
      {"negative scale",
       [](hid_t f) { set_attribute(f, kCell, "sm_scale", -0.125); },
       {kCell, "expected a positive finite number, found -0.125"}},
      {"NaN scale",
       [](hid_t f) { set_attribute(f, kCell, "sm_scale", std::numeric_limits<double>::quiet_NaN()); },
       {kCell, "expected a positive finite number, found nan"}},
      {"infinite scale",
       [](hid_t f) { set_attribute(f, kCell, "sm_scale", std::numeric_limits<double>::infinity()); },
       {kCell, "expected a positive finite number, found inf"}},
      {"scale is text",
       [](hid_t f) { set_attribute(f, kCell, "sm_scale", std::string("1/8")); },
       {kCell, "sm_scale: expected a number, found \"1/8\""}},
      {"no k",
       [](hid_t f) { H5Ldelete(f, "/layers/000/0000/000/k", H5P_DEFAULT); },
       {std::string("group '") + kCell, "dataset k is missing"}},
      {"no tensors",
       [](hid_t f) {
         for (const char* tensor : {"q", "k", "v"}) {
           H5Ldelete(f, (std::string(kCell) + "/" + tensor).c_str(), H5P_DEFAULT);
         }
       },
       {std::string("group '") + kCell, "dataset q is missing"}},
      {"v is a group",
       [](hid_t f) {
         H5Ldelete(f, "/layers/000/0000/000/v", H5P_DEFAULT);
         const h5::Handle group(H5Gcreate2(f, "/layers/000/0000/000/v", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
       },
       {"000/v'", "expected a dataset, found a group"}},
      {"v is a dangling link",
       [](hid_t f) {
         H5Ldelete(f, "/layers/000/0000/000/v", H5P_DEFAULT);
         H5Lcreate_soft("/nowhere", f, "/layers/000/0000/000/v", H5P_DEFAULT, H5P_DEFAULT);
       },
       {"000/v'", "cannot be opened"}},
      {"rank 3",
       [](hid_t f) {
         replace(f, "q", {4, 5, 8});
       },
       {"000/q'", "expected rank 4", "found rank 3 [4, 5, 8]"}},
      {"rank 0", [](hid_t f) { replace(f, "q", {}); }, {"000/q'", "expected rank 4", "found rank 0 []"}},
      {"rank 5",
       [](hid_t f) {
         replace(f, "v", {1, 2, 2, 7, 8});
       },
       {"000/v'", "expected rank 4", "found rank 5 [1, 2, 2, 7, 8]"}},
      {"zero tokens",
       [](hid_t f) {
         replace(f, "q", {2, 4, 0, 8});
       },
       {"000/q'", "shape [2, 4, 0, 8] has a zero-length axis"}},
      {"batch of k",
       [](hid_t f) {
         replace(f, "k", {1, 2, 7, 8});
       },
       {"000/k'", "expected batch 2 as in q, found 1"}},
      {"batch of v",
       [](hid_t f) {
         replace(f, "v", {3, 2, 7, 8});
       },
       {"000/v'", "expected batch 2 as in q, found 3"}},
      {"dim of k",
       [](hid_t f) {
         replace(f, "k", {2, 2, 7, 16});
       },
       {"000/k'", "expected head_dim 8 as in q, found 16"}},
      {"dim of v",
       [](hid_t f) {
         replace(f, "v", {2, 2, 7, 4});
       },
       {"000/v'", "expected head_dim 8 as in q, found 4"}},
      {"heads of v",
       [](hid_t f) {
         replace(f, "v", {2, 4, 7, 8});
       },
       {"000/v'", "expected heads 2 as in k, found 4"}},
      {"length of v",
       [](hid_t f) {
         replace(f, "v", {2, 2, 6, 8});
       },
       {"000/v'", "expected length 7 as in k, found 6"}},
      {"3 query heads of 2",
       [](hid_t f) {
         replace(f, "q", {2, 3, 5, 8});
       },
       {"000/q'", "3 query heads are not a multiple of the 2 key/value heads of '/layers/000/0000/000/k'"}},
      {"head_dim 512",
       [](hid_t f) {
         replace(f, "q", {2, 4, 5, 512});
       },
       {"000/q'", "head_dim 512 is above 256, the largest that attention kernels handle"}},
      {"integers",
       [](hid_t f) {
         replace(f, "q", {2, 4, 5, 8}, H5T_STD_I32LE);
       },
       {"000/q'", "expected float16, bfloat16 or float32, found a 32-bit integer type"}},
      {"float64",
       [](hid_t f) {
         replace(f, "k", {2, 2, 7, 8}, H5T_IEEE_F64LE);
       },
       {"000/k'", "expected float16, bfloat16 or float32, found a 64-bit float"}},
      {"uint16 without attribute",
       [](hid_t f) {
         replace(f, "k", {2, 2, 7, 8}, H5T_STD_U16LE);
       },
       {"000/k'", "expected attribute dtype"}},
      {"never written",
       [](hid_t f) {
         replace(f, "q", {2, 4, 5, 8}, -1, false);
       },
       {"000/q'", "its values were never written"}},
      {"huge and empty",
       [](hid_t f) {
         replace(f, "q", {2, 4, hsize_t{1} << 60, 8}, -1, false);
       },
       {"000/q'", "larger than 2^32 values"}},
      {"two names for one layer",
       [](hid_t f) {
         const h5::Handle links(H5Pcreate(H5P_LINK_CREATE));
         H5Pset_create_intermediate_group(links.get(), 1);
         H5Lcreate_hard(f, kCell, f, "/layers/0/0/0", links.get(), H5P_DEFAULT);
       },
       {"'/layers/0/0/0/k' and '/layers/000/0000/000/k' are both tensor k of layer 0"}},
      {"no cells",
       [](hid_t f) { H5Ldelete(f, "/layers", H5P_DEFAULT); },
       {"holds no cells", "/layers/{layer}/{timestep}/{sample}/{tensor}"}},
      {"output of another shape",
       [](hid_t f) {
         replace(f, "o", {2, 4, 6, 8});
       },
       {"000/o'", "expected the shape of q, [2, 4, 5, 8], found [2, 4, 6, 8]"}},
  };
}

TEST(BadInput, EveryDamageGetsItsSentence) {
  const TempDir dir;
  for (const Damage& damage : damages()) {
    SCOPED_TRACE(damage.name);
    const auto file = dir / "bad.h5";
    write_capture(file, small_cell());
    {
      const h5::Handle handle(H5Fopen(file.c_str(), H5F_ACC_RDWR, H5P_DEFAULT));
      ASSERT_TRUE(handle);
      damage.apply(handle.get());
    }
    const std::string message = message_of<DataError>([&] { read_all(file); });
    EXPECT_NE(message.find(fmt::format("'{}'", file.string())), std::string::npos) << message;
    for (const std::string& words : damage.words) EXPECT_NE(message.find(words), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST(BadInput, FilesThatAreNone) {
  const TempDir dir;
  const auto expect = [&](const std::filesystem::path& file, const std::string& words) {
    const std::string message = message_of<DataError>([&] { read_all(file); });
    EXPECT_NE(message.find(file.string()), std::string::npos) << message;
    EXPECT_NE(message.find(words), std::string::npos) << message;
  };
  expect(dir / "missing.h5", "no such file");
  expect(dir / "", "is a directory");
  std::ofstream(dir / "empty.h5").close();
  expect(dir / "empty.h5", "is empty");
  std::ofstream(dir / "text.h5") << std::string(5000, 'x');
  expect(dir / "text.h5", "is not an HDF5 file");
  EXPECT_NE(
      message_of<DataError>([&] { static_cast<void>(file_fingerprint(dir / "missing.h5")); }).find("no such file"),
      std::string::npos);
}

// Cut at many places: never a crash, always a sentence with the file's name.
TEST(BadInput, TruncatedFiles) {
  const TempDir dir;
  const auto file = dir / "whole.h5";
  write_capture(file, small_cell(), 1);
  const auto size = std::filesystem::file_size(file);
  for (std::uintmax_t keep = 8; keep < size; keep += size / 37) {
    const auto cut = dir / "cut.h5";
    std::filesystem::copy_file(file, cut, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(cut, keep);
    const std::string message = message_of<DataError>([&] { read_all(cut); });
    EXPECT_NE(message.find(cut.string()), std::string::npos) << keep << " bytes: " << message;
    EXPECT_TRUE(keep < 100 || message.find("is truncated") != std::string::npos) << keep << " bytes: " << message;
  }
}

// An interrupted writer leaves chunks that were never written, which HDF5 itself reads as zeros.
TEST(BadInput, ChunksThatWereNeverWritten) {
  const TempDir dir;
  const auto file = dir / "holes.h5";
  write_capture(file, small_cell());
  {
    const h5::Handle handle(H5Fopen(file.c_str(), H5F_ACC_RDWR, H5P_DEFAULT));
    const char* path = "/layers/000/0000/000/k";
    H5Ldelete(handle.get(), path, H5P_DEFAULT);
    const std::array<hsize_t, 4> dims{2, 2, 7, 8}, chunk{1, 1, 7, 8}, start{0, 1, 0, 0};
    const h5::Handle type = make_stored_type(DType::float16);
    const h5::Handle space(H5Screate_simple(4, dims.data(), nullptr)),
        memory(H5Screate_simple(4, chunk.data(), nullptr));
    const h5::Handle creation(H5Pcreate(H5P_DATASET_CREATE));
    H5Pset_chunk(creation.get(), 4, chunk.data());
    const h5::Handle dataset(
        H5Dcreate2(handle.get(), path, type.get(), space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT));
    H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start.data(), nullptr, chunk.data(), nullptr);
    const std::vector<std::uint16_t> values(56);
    ASSERT_GE(H5Dwrite(dataset.get(), type.get(), memory.get(), space.get(), H5P_DEFAULT, values.data()), 0);
  }
  const std::string message = message_of<DataError>([&] { read_all(file); });
  EXPECT_NE(message.find("000/k': only 1 of its 4 chunks were ever written"), std::string::npos) << message;
}

TEST(BadInput, VirtualDatasetsWithoutTheirSources) {
  const TempDir dir;
  const auto file = dir / "virtual.h5";
  write_capture(file, small_cell());
  {
    const h5::Handle handle(H5Fopen(file.c_str(), H5F_ACC_RDWR, H5P_DEFAULT));
    const char* path = "/layers/000/0000/000/k";
    H5Ldelete(handle.get(), path, H5P_DEFAULT);
    const std::array<hsize_t, 4> dims{2, 2, 7, 8};
    const h5::Handle type = make_stored_type(DType::float16);
    const h5::Handle space(H5Screate_simple(4, dims.data(), nullptr));
    const h5::Handle creation(H5Pcreate(H5P_DATASET_CREATE));
    H5Pset_virtual(creation.get(), space.get(), "elsewhere.h5", "/k", space.get());
    const h5::Handle dataset(
        H5Dcreate2(handle.get(), path, type.get(), space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT));
    ASSERT_TRUE(dataset);
  }
  const std::string message = message_of<DataError>([&] { read_all(file); });
  EXPECT_NE(message.find("000/k': 'elsewhere.h5', a source of this virtual dataset, does not exist"), std::string::npos)
      << message;
}

TEST(BadInput, CompressedDataThatIsDamaged) {
  const TempDir dir;
  const auto file = dir / "damaged.h5";
  CellInfo cell = small_cell();
  cell.shape = {1, 1, 1, 512, 512, 64};
  write_capture(file, cell, 1);
  {
    std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(static_cast<std::streamoff>(std::filesystem::file_size(file)) / 2);
    bytes << std::string(64, '\xff');
  }
  const std::string message = message_of<DataError>([&] { read_all(file); });
  EXPECT_NE(message.find("000/"), std::string::npos) << message;
  EXPECT_NE(message.find("cannot be read"), std::string::npos) << message;
}

TEST(BadInput, TemplatesThatMatchNothing) {
  const TempDir dir;
  const auto file = dir / "a.h5";
  write_capture(file, small_cell());
  ReaderOptions options;
  options.path_template = "/blocks/{layer}/{tensor}";
  const std::string message = message_of<DataError>([&] { read_all(file, options); });
  EXPECT_NE(message.find("holds no cells: nothing in it matches '/blocks/{layer}/{tensor}'"), std::string::npos)
      << message;
}

TEST(BadInput, HeadsThatDoNotExist) {
  const TempDir dir;
  write_capture(dir / "a.h5", small_cell());
  const CaptureReader reader(dir / "a.h5");
  const CellInfo cell = reader.describe({});
  EXPECT_NE(message_of<UsageError>([&] { static_cast<void>(reader.read_head(cell, TensorName::k, 0, 2)); }), "");
  EXPECT_NE(message_of<UsageError>([&] { static_cast<void>(reader.read_head(cell, TensorName::q, 2, 0)); }), "");
}

}  // namespace
}  // namespace sage2
