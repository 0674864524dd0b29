#include "datasets/hdf5.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2::h5 {
namespace {

constexpr std::size_t kLongestString = std::size_t{1} << 20;

herr_t keep_innermost(unsigned /*n*/, const H5E_error2_t* error, void* out) {
  *static_cast<std::string*>(out) = error->desc != nullptr ? error->desc : "";
  return 1;  // no need to walk on
}

herr_t collect_name(hid_t /*group*/, const char* name, const H5L_info_t* /*info*/, void* out) {
  static_cast<std::vector<std::string>*>(out)->emplace_back(name);
  return 0;
}

Attribute read_string(hid_t attribute, hid_t type) {
  Handle memory(H5Tcopy(H5T_C_S1));
  H5Tset_cset(memory.get(), H5Tget_cset(type));
  if (H5Tis_variable_str(type) > 0) {
    H5Tset_size(memory.get(), H5T_VARIABLE);
    char* text = nullptr;
    if (H5Aread(attribute, memory.get(), &text) < 0) return Unreadable{};
    std::string value = text != nullptr ? text : "";
    H5free_memory(text);
    return value;
  }
  const std::size_t size = H5Tget_size(type);
  if (size > kLongestString) return Unreadable{};
  // One byte more than the file has, so that a string which fills its field keeps its last character.
  H5Tset_size(memory.get(), size + 1);
  std::vector<char> text(size + 1);
  if (H5Aread(attribute, memory.get(), text.data()) < 0) return Unreadable{};
  std::string value(text.data());
  value.erase(value.find_last_not_of(' ') + 1);  // Fortran pads with spaces
  return value;
}

/// h5py writes booleans as an enumeration over int8: reads the number behind the name.
Attribute read_enum(hid_t attribute, hid_t type) {
  const Handle base(H5Tget_super(type));
  std::array<std::byte, 16> value{};
  std::int64_t number = 0;
  if (!base || H5Tget_size(type) > sizeof(number)) return Unreadable{};
  if (H5Aread(attribute, type, value.data()) < 0) return Unreadable{};
  if (H5Tconvert(base.get(), H5T_NATIVE_INT64, 1, value.data(), nullptr, H5P_DEFAULT) < 0) return Unreadable{};
  std::copy_n(value.data(), sizeof(number), reinterpret_cast<std::byte*>(&number));
  return number;
}

bool write_scalar(hid_t object, const char* name, hid_t type, const void* value) {
  const Handle space(H5Screate(H5S_SCALAR));
  const Handle attribute(H5Acreate2(object, name, type, space.get(), H5P_DEFAULT, H5P_DEFAULT));
  return attribute && H5Awrite(attribute.get(), type, value) >= 0;
}

}  // namespace

void prepare() {
  [[maybe_unused]] static const bool once = [] {
    // Called before any thread of ours reads the environment.
    setenv("HDF5_USE_FILE_LOCKING", "FALSE", 0);  // NOLINT(concurrency-mt-unsafe)
    // Handles are closed by their owners. The library's own exit handler retries a failed flush of a full disk.
    H5dont_atexit();
    return true;
  }();
  thread_local const bool silent = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0;
  static_cast<void>(silent);
}

std::string last_error() {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, &text);
  const std::string_view marker = "error message = '";
  if (const auto begin = text.find(marker); begin != std::string::npos) {
    const auto end = text.find('\'', begin + marker.size());
    if (end != std::string::npos) text = text.substr(begin + marker.size(), end - begin - marker.size());
  }
  return text;
}

Handle open_file(const std::filesystem::path& file) {
  prepare();
  const std::string name = file.string();
  std::error_code code;
  const auto status = std::filesystem::status(file, code);
  if (!std::filesystem::exists(status)) throw DataError(fmt::format("'{}': no such file", name));
  if (std::filesystem::is_directory(status)) {
    throw DataError(fmt::format("'{}' is a directory; expected an HDF5 file", name));
  }
  Handle handle(H5Fopen(name.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT));
  if (handle) return handle;
  const std::string reason = last_error();
  const auto size = std::filesystem::file_size(file, code);
  if (!code && size == 0) throw DataError(fmt::format("'{}' is empty; expected an HDF5 file", name));
  if (reason.find("truncated") != std::string::npos) {
    throw DataError(
        fmt::format("'{}' is truncated: its {} bytes are fewer than its own header says ({})", name, size, reason));
  }
  if (H5Fis_hdf5(name.c_str()) == 0) throw DataError(fmt::format("'{}' is not an HDF5 file", name));
  throw DataError(fmt::format("'{}' cannot be opened as HDF5: {}", name, reason));
}

bool exists(hid_t file, const std::string& path) {
  return object_type(file, path) != H5O_TYPE_UNKNOWN;
}

H5O_type_t object_type(hid_t file, const std::string& path) {
  const Handle object(H5Oopen(file, path.empty() ? "/" : path.c_str(), H5P_DEFAULT));
  if (!object) return H5O_TYPE_UNKNOWN;
  switch (H5Iget_type(object.get())) {
    case H5I_GROUP:
      return H5O_TYPE_GROUP;
    case H5I_DATASET:
      return H5O_TYPE_DATASET;
    case H5I_DATATYPE:
      return H5O_TYPE_NAMED_DATATYPE;
    default:
      return H5O_TYPE_UNKNOWN;
  }
}

std::vector<std::string> link_names(hid_t file, const std::string& group) {
  std::vector<std::string> names;
  const Handle handle(H5Gopen2(file, group.empty() ? "/" : group.c_str(), H5P_DEFAULT));
  if (handle) H5Literate(handle.get(), H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, collect_name, &names);
  std::sort(names.begin(), names.end());
  return names;
}

Attribute read_attribute(hid_t object, const char* name) {
  if (H5Aexists(object, name) <= 0) return {};
  const Handle attribute(H5Aopen(object, name, H5P_DEFAULT));
  const Handle space(attribute ? H5Aget_space(attribute.get()) : H5I_INVALID_HID);
  const Handle type(attribute ? H5Aget_type(attribute.get()) : H5I_INVALID_HID);
  if (!space || !type || H5Sget_simple_extent_npoints(space.get()) != 1) return Unreadable{};
  switch (H5Tget_class(type.get())) {
    case H5T_INTEGER: {
      std::int64_t value = 0;
      if (H5Aread(attribute.get(), H5T_NATIVE_INT64, &value) < 0) return Unreadable{};
      return value;
    }
    case H5T_FLOAT: {
      double value = 0;
      if (H5Aread(attribute.get(), H5T_NATIVE_DOUBLE, &value) < 0) return Unreadable{};
      return value;
    }
    case H5T_ENUM:
      return read_enum(attribute.get(), type.get());
    case H5T_STRING:
      return read_string(attribute.get(), type.get());
    default:
      return Unreadable{};
  }
}

bool write_attribute(hid_t object, const char* name, std::int64_t value) {
  return write_scalar(object, name, H5T_NATIVE_INT64, &value);
}

bool write_attribute(hid_t object, const char* name, double value) {
  return write_scalar(object, name, H5T_NATIVE_DOUBLE, &value);
}

bool write_attribute(hid_t object, const char* name, const std::string& value) {
  const Handle type(H5Tcopy(H5T_C_S1));
  H5Tset_size(type.get(), H5T_VARIABLE);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  const char* text = value.c_str();
  return write_scalar(object, name, type.get(), &text);
}

std::vector<hsize_t> extent(hid_t dataset) {
  const Handle space(H5Dget_space(dataset));
  const int rank = H5Sget_simple_extent_ndims(space.get());
  std::vector<hsize_t> dims(rank > 0 ? static_cast<std::size_t>(rank) : 0);
  if (rank > 0) H5Sget_simple_extent_dims(space.get(), dims.data(), nullptr);
  return dims;
}

}  // namespace sage2::h5
