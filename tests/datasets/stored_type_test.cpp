#include "datasets/stored_type.hpp"

#include <array>
#include <functional>

#include "datasets/error.hpp"
#include "gtest/gtest.h"
#include "tests/datasets/capture_files.hpp"

// Every form in which 16-bit values occur in the field, and the types that must be refused.
namespace sage2 {
namespace {

using testing::message_of;
using testing::TempDir;

h5::Handle custom_float(std::size_t size, std::array<std::size_t, 5> f, std::size_t bias, bool big_endian = false) {
  h5::Handle type(H5Tcopy(size == 8 ? H5T_IEEE_F64LE : H5T_IEEE_F32LE));
  H5Tset_fields(type.get(), f[0], f[1], f[2], f[3], f[4]);
  H5Tset_size(type.get(), size);
  H5Tset_ebias(type.get(), bias);
  if (big_endian) H5Tset_order(type.get(), H5T_ORDER_BE);
  return type;
}

h5::Handle opaque(std::size_t size, const char* tag) {
  h5::Handle type(H5Tcreate(H5T_OPAQUE, size));
  H5Tset_tag(type.get(), tag);
  return type;
}

h5::Handle copy(hid_t type) {
  return h5::Handle(H5Tcopy(type));
}

constexpr std::array<std::size_t, 5> kHalfFields{15, 10, 5, 0, 10};
constexpr std::array<std::size_t, 5> kBrainFields{15, 7, 8, 0, 7};

class StoredTypeTest : public ::testing::Test {
 protected:
  StoredTypeTest() {
    h5::prepare();
    file_ = h5::Handle(H5Fcreate((dir_ / "types.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
  }
  StoredType read(const h5::Handle& type, const std::string& attribute) {
    const hsize_t n = 4;
    const h5::Handle space(H5Screate_simple(1, &n, nullptr));
    const std::string name = fmt::format("d{}", count_++);
    const h5::Handle dataset(
        H5Dcreate2(file_.get(), name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    EXPECT_TRUE(dataset);
    EXPECT_TRUE(attribute.empty() || h5::write_attribute(dataset.get(), "dtype", attribute));
    return stored_type(dataset.get(), "'types.h5', dataset '" + name + "'");
  }

  TempDir dir_;
  h5::Handle file_;
  int count_ = 0;
};

TEST_F(StoredTypeTest, AcceptsEveryFormByItsFields) {
  struct Case {
    const char* what;
    h5::Handle type;
    const char* attribute;
    DType dtype;
    bool big_endian;
  };
  std::vector<Case> cases;
  cases.push_back({"h5py float16", custom_float(2, kHalfFields, 15), "", DType::float16, false});
  cases.push_back({"float16 with attribute", custom_float(2, kHalfFields, 15), "float16", DType::float16, false});
  cases.push_back({"float16, big-endian", custom_float(2, kHalfFields, 15, true), "", DType::float16, true});
  cases.push_back({"bfloat16 float, bias 127", custom_float(2, kBrainFields, 127), "", DType::bfloat16, false});
  cases.push_back({"bfloat16 float, bias 15", custom_float(2, kBrainFields, 15), "", DType::bfloat16, false});
  cases.push_back({"bfloat16 float, big-endian", custom_float(2, kBrainFields, 127, true), "", DType::bfloat16, true});
  cases.push_back({"bfloat16 as uint16", copy(H5T_STD_U16LE), "bfloat16", DType::bfloat16, false});
  cases.push_back({"bfloat16 as int16", copy(H5T_STD_I16LE), "torch.bfloat16", DType::bfloat16, false});
  cases.push_back({"bfloat16 as big-endian uint16", copy(H5T_STD_U16BE), "bfloat16", DType::bfloat16, true});
  cases.push_back({"float16 as uint16", copy(H5T_STD_U16LE), "float16", DType::float16, false});
  cases.push_back({"bfloat16 opaque", opaque(2, "NUMPY:|V2"), "bfloat16", DType::bfloat16, false});
  cases.push_back({"bfloat16 opaque by tag", opaque(2, "NUMPY:bfloat16"), "", DType::bfloat16, false});
  cases.push_back({"float32", copy(H5T_IEEE_F32LE), "float32", DType::float32, false});
  cases.push_back({"float32, big-endian", copy(H5T_IEEE_F32BE), "", DType::float32, true});
  for (const Case& c : cases) {
    const StoredType found = read(c.type, c.attribute);
    EXPECT_EQ(found.dtype, c.dtype) << c.what;
    EXPECT_EQ(found.big_endian, c.big_endian) << c.what;
  }
}

TEST_F(StoredTypeTest, RefusesTheRestAndSaysWhatItIs) {
  struct Case {
    h5::Handle type;
    const char* attribute;
    const char* words;
  };
  std::vector<Case> cases;
  cases.push_back({copy(H5T_STD_U16LE), "", "expected attribute dtype"});
  cases.push_back({opaque(2, "NUMPY:|V2"), "", "expected attribute dtype"});
  cases.push_back({copy(H5T_STD_U16LE), "float32", "16-bit integer type with dtype=\"float32\""});
  cases.push_back({copy(H5T_STD_I32LE), "float32", "32-bit integer"});
  cases.push_back({copy(H5T_STD_U8LE), "", "8-bit integer"});
  cases.push_back({copy(H5T_IEEE_F64LE), "", "64-bit float"});
  cases.push_back({custom_float(2, kHalfFields, 7), "", "bias 7"});
  cases.push_back({custom_float(2, {15, 9, 6, 0, 9}, 31), "", "6 exponent bits at 9"});
  cases.push_back({custom_float(2, kHalfFields, 15), "bfloat16", "says bfloat16, its HDF5 type is float16"});
  cases.push_back({copy(H5T_C_S1), "", "string"});
  for (const Case& c : cases) {
    const std::string message = message_of<DataError>([&] { read(c.type, c.attribute); });
    EXPECT_NE(message.find(c.words), std::string::npos) << message;
    EXPECT_NE(message.find("'types.h5', dataset 'd"), std::string::npos) << message;
  }
}

TEST_F(StoredTypeTest, WritesWhatItReads) {
  for (const DType dtype : {DType::float16, DType::bfloat16, DType::float32}) {
    EXPECT_EQ(read(make_stored_type(dtype), to_string(dtype)).dtype, dtype);
  }
}

}  // namespace
}  // namespace sage2
