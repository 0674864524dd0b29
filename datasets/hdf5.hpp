#pragma once

#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <variant>
#include <vector>

/// Thin RAII over the HDF5 C API: only what captures need. The library has one global lock; its error stack is kept
/// silent, and its innermost message goes into our own sentence instead.
namespace sage2::h5 {

/// Owns one HDF5 identifier of any kind; negative is none.
class Handle {
 public:
  Handle() = default;
  explicit Handle(hid_t id) noexcept : id_(id) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (id_ >= 0) H5Idec_ref(id_);
  }
  [[nodiscard]] hid_t get() const noexcept { return id_; }
  [[nodiscard]] hid_t release() noexcept { return std::exchange(id_, H5I_INVALID_HID); }
  explicit operator bool() const noexcept { return id_ >= 0; }

 private:
  hid_t id_ = H5I_INVALID_HID;
};

/// Call before the first HDF5 call of each thread: silences the error stack, which is per thread. The first call of the
/// process sets HDF5_USE_FILE_LOCKING=FALSE unless the user set it, since network file systems refuse locks.
void prepare();

/// The innermost message of the last failed call, "" if there is none. A system error is given by its own words.
[[nodiscard]] std::string last_error();

/// Opens a file for reading. Throws DataError where it is missing, not HDF5, truncated or damaged.
[[nodiscard]] Handle open_file(const std::filesystem::path& file);

/// True if the path leads to an object (no dangling link on the way).
[[nodiscard]] bool exists(hid_t file, const std::string& path);
/// What the path leads to; H5O_TYPE_UNKNOWN where there is nothing.
[[nodiscard]] H5O_type_t object_type(hid_t file, const std::string& path);

/// Names of the links in a group, in increasing order; empty if it is no group.
[[nodiscard]] std::vector<std::string> link_names(hid_t file, const std::string& group);

/// Value of a scalar attribute; monostate where there is none. An attribute that is neither a number nor a string, or
/// has more than one element, reads as Unreadable.
struct Unreadable {};
using Attribute = std::variant<std::monostate, std::int64_t, double, std::string, Unreadable>;
[[nodiscard]] Attribute read_attribute(hid_t object, const char* name);

/// Writes a scalar attribute (int64, double or UTF-8 string). False on failure.
[[nodiscard]] bool write_attribute(hid_t object, const char* name, std::int64_t value);
[[nodiscard]] bool write_attribute(hid_t object, const char* name, double value);
[[nodiscard]] bool write_attribute(hid_t object, const char* name, const std::string& value);

/// Extent of a dataset, outermost axis first.
[[nodiscard]] std::vector<hsize_t> extent(hid_t dataset);

}  // namespace sage2::h5
