#include "datasets/capture_index.hpp"

#include <algorithm>

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {
namespace {

struct Walk {
  hid_t file;
  const std::filesystem::path& name;
  const PathTemplate& paths;
  CaptureIndex index{};

  void visit(const std::string& group, std::size_t level, const PathFields& fields) {
    const bool last = level + 1 == paths.depth();
    if (last && paths.is_tensor(level)) index[id(fields)].group = group;
    if (const auto literal = paths.literal(level)) {
      if (h5::exists(file, group + "/" + *literal)) descend(group, *literal, level, fields);
      return;
    }
    for (const std::string& link : h5::link_names(file, group)) {
      PathFields found = fields;
      if (paths.match(level, link, found)) descend(group, link, level, found);
    }
  }

  void descend(const std::string& group, const std::string& link, std::size_t level, const PathFields& fields) {
    const std::string path = group + "/" + link;
    if (level + 1 == paths.depth()) {
      add(group, path, fields);
    } else if (h5::object_type(file, path) == H5O_TYPE_GROUP) {
      visit(path, level + 1, fields);
    }
  }

  void add(const std::string& group, const std::string& path, const PathFields& fields) {
    CellPaths& cell = index[id(fields)];
    std::string& slot = cell.tensors.at(*fields.tensor);
    if (!slot.empty()) {
      throw DataError(fmt::format("'{}': datasets '{}' and '{}' are both tensor {} of layer {}, timestep {}, sample {}",
                                  name.string(), slot, path, "qkvo"[*fields.tensor], fields.layer, fields.timestep,
                                  fields.sample));
    }
    slot = path;
    cell.group = group;
  }

  static CellId id(const PathFields& fields) { return {fields.layer, fields.timestep, fields.sample}; }
};

}  // namespace

CaptureIndex index_capture(hid_t file, const std::filesystem::path& name, const PathTemplate& paths) {
  Walk walk{file, name, paths};
  walk.visit("", 0, {});
  // A dataset of the model's output alone is no attention call.
  std::erase_if(walk.index, [](const auto& entry) {
    const auto& t = entry.second.tensors;
    return t[0].empty() && t[1].empty() && t[2].empty() && !t[3].empty();
  });
  if (walk.index.empty()) {
    throw DataError(fmt::format("'{}' holds no cells: nothing in it matches '{}'", name.string(), paths.text()));
  }
  return walk.index;
}

}  // namespace sage2
