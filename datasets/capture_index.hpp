#pragma once

#include <array>
#include <filesystem>
#include <map>
#include <string>

#include "datasets/capture.hpp"
#include "datasets/hdf5.hpp"
#include "datasets/path_template.hpp"

/// Which cells a capture file holds, and where: by the names of its groups and datasets only.
namespace sage2 {

struct CellPaths {
  std::string group;                   ///< that the tensors are in
  std::array<std::string, 4> tensors;  ///< datasets q, k, v and the model's own output; empty where absent
};

using CaptureIndex = std::map<CellId, CellPaths>;

/// Walks the file along the template. Names that do not fit are passed over. Throws DataError where two datasets claim
/// the same tensor of a cell or where nothing fits.
[[nodiscard]] CaptureIndex index_capture(hid_t file, const std::filesystem::path& name, const PathTemplate& paths);

}  // namespace sage2
