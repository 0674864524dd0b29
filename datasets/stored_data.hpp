#pragma once

#include <filesystem>
#include <string>

#include "datasets/hdf5.hpp"

/// How the values of a dataset lie in the file: opened for fast reading, and checked to be there at all. HDF5 reads
/// what was never written as zeros, without a word.
namespace sage2 {

/// Opens a dataset for reading head by head. Throws DataError, beginning with `where`.
[[nodiscard]] h5::Handle open_dataset(hid_t file, const std::string& path, const std::string& where);

/// Throws DataError where values are missing: chunks that an interrupted writer never wrote, a contiguous block that
/// ends beyond the file, source files of a virtual dataset that are not there.
void check_complete(hid_t file, hid_t dataset, const std::filesystem::path& name, const std::string& where);

}  // namespace sage2
