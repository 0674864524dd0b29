#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "datasets/capture.hpp"
#include "datasets/error.hpp"
#include "datasets/hdf5.hpp"
#include "datasets/inspect.hpp"
#include "fmt/format.h"
#include "fuzzer/FuzzedDataProvider.h"

// Captures of every wrong shape, type, attribute and layout: whatever is in the file, only sage2::Error may come out.
//
// The bytes steer the making of a file rather than being one: given damaged bytes, libhdf5 1.10 itself loops for ever
// or reads out of bounds, within a minute of mutating a small capture, and nothing can be learned about our own code.
// Damage to the bytes is covered by cutting the file short.
namespace {

using sage2::h5::Handle;

class FileMaker {
 public:
  FileMaker(FuzzedDataProvider& bytes, const std::string& path) : bytes_(bytes) {
    file_ = Handle(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
    if (!file_) std::abort();  // no room for the file: nothing was tested
    const Handle root(H5Gopen2(file_.get(), "/", H5P_DEFAULT));
    attribute(root.get(), "schema", std::string("sage2-capture"));
    attribute(root.get(), "schema_version", std::int64_t{1});
    attribute(root.get(), "model", std::string("m"));
    attribute(root.get(), "source", std::string("s"));
    const int cells = bytes_.ConsumeIntegralInRange(1, 2);
    for (int i = 0; i < cells; ++i) cell(i);
  }

 private:
  /// True in one of n cases, and never once the input is used up: an empty input makes a sound file.
  bool rarely(int n) { return bytes_.ConsumeIntegralInRange(1, n) == n; }

  /// Mostly what it should be; else another value, kind or shape of it, or nothing.
  template <typename T>
  void attribute(hid_t object, const char* name, const T& right) {
    bool written = true;
    switch (bytes_.ConsumeIntegralInRange(0, 15)) {
      case 6:
        return;
      case 1:
        written = sage2::h5::write_attribute(object, name, bytes_.ConsumeIntegral<std::int64_t>());
        break;
      case 2:
        written = sage2::h5::write_attribute(object, name, bytes_.ConsumeFloatingPoint<double>());
        break;
      case 3:
        written = sage2::h5::write_attribute(object, name, std::string(bytes_.ConsumeRandomLengthString(12).c_str()));
        break;
      case 4:
        array_attribute(object, name);
        return;
      case 5: {
        constexpr std::array<const char*, 4> words{"NHD", "HND", "top_left", "bottom_right"};
        written = sage2::h5::write_attribute(object, name, std::string(bytes_.PickValueInArray(words)));
        break;
      }
      default:
        written = sage2::h5::write_attribute(object, name, right);
    }
    static_cast<void>(written);  // libhdf5 may refuse; then the attribute is missing, which is a case as well
  }

  void array_attribute(hid_t object, const char* name) {
    const std::array<hsize_t, 1> dims{bytes_.ConsumeIntegralInRange<hsize_t>(0, 3)};
    const std::array<double, 3> values{1, 2, 3};
    const Handle space(bytes_.ConsumeBool() ? H5Screate(H5S_NULL) : H5Screate_simple(1, dims.data(), nullptr));
    const Handle type = any_type();
    const Handle a(H5Acreate2(object, name, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT));
    if (a && H5Tget_size(type.get()) <= 8) H5Awrite(a.get(), type.get(), values.data());
  }

  Handle any_type() {
    constexpr std::array<std::size_t, 4> fields{16, 15, 8, 5};
    switch (bytes_.ConsumeIntegralInRange(0, 11)) {
      case 0:
        return Handle(H5Tcopy(H5T_IEEE_F32LE));
      case 1:
        return Handle(H5Tcopy(H5T_IEEE_F32BE));
      case 2:
        return Handle(H5Tcopy(H5T_IEEE_F64LE));
      case 3:
        return Handle(H5Tcopy(H5T_STD_U16LE));
      case 4:
        return Handle(H5Tcopy(H5T_STD_I16BE));
      case 5:
        return Handle(H5Tcopy(H5T_STD_I64LE));
      case 6:
        return Handle(H5Tcreate(H5T_OPAQUE, bytes_.ConsumeIntegralInRange<std::size_t>(1, 8)));
      case 7: {
        Handle type(H5Tcreate(H5T_COMPOUND, 4));
        H5Tinsert(type.get(), "x", 0, H5T_STD_U16LE);
        H5Tinsert(type.get(), "y", 2, H5T_STD_U16LE);
        return type;
      }
      case 8: {
        Handle type(H5Tenum_create(H5T_STD_U16LE));
        const std::uint16_t one = 1;
        H5Tenum_insert(type.get(), "one", &one);
        return type;
      }
      case 9: {  // any 16-bit float that libhdf5 admits
        Handle type(H5Tcopy(H5T_IEEE_F32LE));
        const auto pick = [&](std::size_t most) { return bytes_.ConsumeIntegralInRange<std::size_t>(0, most); };
        H5Tset_fields(type.get(), pick(fields[1]), pick(fields[1]), pick(fields[2]), pick(fields[3]), pick(fields[1]));
        H5Tset_size(type.get(), 2);
        H5Tset_ebias(type.get(), pick(200));
        return type;
      }
      case 10: {
        Handle type(H5Tcopy(H5T_IEEE_F32LE));
        H5Tset_fields(type.get(), 15, 7, 8, 0, 7);
        H5Tset_size(type.get(), 2);
        H5Tset_ebias(type.get(), bytes_.ConsumeBool() ? 15 : 127);
        return type;
      }
      default:
        return half_type();
    }
  }

  static Handle half_type() {
    Handle type(H5Tcopy(H5T_IEEE_F32LE));
    H5Tset_fields(type.get(), 15, 10, 5, 0, 10);
    H5Tset_size(type.get(), 2);
    H5Tset_ebias(type.get(), 15);
    return type;
  }

  void cell(int index) {
    std::string path = fmt::format("/layers/{:03}/0000/000", index);
    if (rarely(16)) path = "/layers/" + bytes_.ConsumeRandomLengthString(8) + "/0/0";
    const Handle links(H5Pcreate(H5P_LINK_CREATE));
    H5Pset_create_intermediate_group(links.get(), 1);
    const Handle group(H5Gcreate2(file_.get(), path.c_str(), links.get(), H5P_DEFAULT, H5P_DEFAULT));
    if (!group) return;
    attribute(group.get(), "layer", std::int64_t{index});
    attribute(group.get(), "layer_name", std::string("l"));
    attribute(group.get(), "timestep", std::int64_t{0});
    attribute(group.get(), "timestep_value", 0.5);
    attribute(group.get(), "sample", std::int64_t{0});
    attribute(group.get(), "is_causal", std::int64_t{bytes_.ConsumeBool()});
    attribute(group.get(), "sm_scale", 0.25);
    attribute(group.get(), "layout", std::string(bytes_.ConsumeBool() ? "NHD" : "HND"));
    attribute(group.get(), "causal_align", std::string("top_left"));
    for (const char* name : {"q", "k", "v", "o"}) dataset(group.get(), name);
  }

  void dataset(hid_t group, const char* name) {
    const int kind = bytes_.ConsumeIntegralInRange(0, 31);
    if (kind == 3) return;
    if (kind == 1) {
      H5Lcreate_soft(bytes_.ConsumeRandomLengthString(8).c_str(), group, name, H5P_DEFAULT, H5P_DEFAULT);
      return;
    }
    if (kind == 2) {
      const Handle unused(H5Gcreate2(group, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
      return;
    }
    std::vector<hsize_t> dims{1, name[0] == 'q' || name[0] == 'o' ? 2U : 1U, 3, 4};
    if (rarely(4)) {
      dims.resize(bytes_.ConsumeIntegralInRange<std::size_t>(0, 6));
      for (auto& n : dims) n = bytes_.ConsumeIntegralInRange<hsize_t>(0, 5);
    }
    bool huge = false;
    if (!dims.empty() && rarely(32)) {
      dims[bytes_.ConsumeIntegralInRange<std::size_t>(0, dims.size() - 1)] = bytes_.ConsumeIntegral<std::uint64_t>();
      huge = true;
    }
    const Handle type = rarely(4) ? any_type() : half_type();
    const Handle space(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr));
    const Handle creation(H5Pcreate(H5P_DATASET_CREATE));
    if (bytes_.ConsumeBool()) {
      std::vector<hsize_t> chunk(dims.size());
      for (auto& n : chunk) n = bytes_.ConsumeIntegralInRange<hsize_t>(1, 4);
      H5Pset_chunk(creation.get(), static_cast<int>(chunk.size()), chunk.data());
      if (bytes_.ConsumeBool()) H5Pset_deflate(creation.get(), 1);
    } else if (rarely(8)) {
      H5Pset_virtual(creation.get(), space.get(), bytes_.ConsumeBool() ? "." : "gone.h5", "/x", space.get());
    }
    if (rarely(8)) H5Pset_layout(creation.get(), H5D_COMPACT);
    const Handle data(H5Dcreate2(group, name, type.get(), space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT));
    if (!data) return;
    attribute(data.get(), "dtype", std::string(bytes_.ConsumeBool() ? "float16" : "bfloat16"));
    if (huge || rarely(16)) return;  // never written
    std::vector<std::uint8_t> values(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space.get())) *
                                     H5Tget_size(type.get()));
    const auto given = bytes_.ConsumeBytes<std::uint8_t>(values.size());
    std::copy(given.begin(), given.end(), values.begin());
    H5Dwrite(data.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  }

  FuzzedDataProvider& bytes_;
  Handle file_;
};

void read_everything(const std::string& path, const sage2::ReaderOptions& options) {
  const sage2::CaptureReader reader(path, options);
  for (const sage2::CellId& id : reader.cells()) {
    static_cast<void>(sage2::inspect_cell(reader, id));
    try {
      const sage2::CellInfo cell = reader.describe(id);
      static_cast<void>(sage2::content_hash(reader, cell));
      const auto problem = reader.read_problem(cell, cell.shape.batch - 1, cell.shape.q_heads - 1);
      if (problem.q.rows != cell.shape.q_len || problem.v.data.size() != cell.shape.kv_len * cell.shape.head_dim) {
        std::abort();  // a cell that was described as sound is not what it was said to be
      }
    } catch (const sage2::Error&) {
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  sage2::h5::prepare();
  // Memory where there is some, since each input makes a file.
  static const std::string path =
      fmt::format("{}/sage2-fuzz-{}.h5", std::filesystem::exists("/dev/shm") ? "/dev/shm" : "/tmp", getpid());
  FuzzedDataProvider bytes(data, size);
  sage2::ReaderOptions options;
  if (bytes.ConsumeIntegralInRange(0, 3) == 3) {
    options.path_template =
        bytes.ConsumeBool() ? "/layers/{layer}/{timestep}/{sample}/{tensor}" : bytes.ConsumeRandomLengthString(40);
  }
  const bool cut = bytes.ConsumeIntegralInRange(0, 31) == 31;
  const double keep = bytes.ConsumeProbability<double>();
  { const FileMaker made(bytes, path); }
  if (cut) {
    const auto bytes_there = static_cast<double>(std::filesystem::file_size(path));
    std::filesystem::resize_file(path, static_cast<std::uintmax_t>(keep * bytes_there));
  }
  try {
    read_everything(path, options);
  } catch (const sage2::Error&) {
  }
  std::remove(path.c_str());
  return 0;
}
