#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <map>

#include "datasets/capture.hpp"
#include "datasets/capture_attributes.hpp"
#include "datasets/capture_index.hpp"
#include "datasets/convert.hpp"
#include "datasets/error.hpp"
#include "datasets/hdf5.hpp"
#include "datasets/path_template.hpp"
#include "datasets/stored_data.hpp"
#include "datasets/stored_type.hpp"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace sage2 {
namespace {

constexpr const char* kSchema = "sage2-capture";
constexpr std::int64_t kSchemaVersion = 1;
constexpr const char* kSchemaPaths = "/layers/{layer}/{timestep}/{sample}/{tensor}";
constexpr std::size_t kOutput = 3;  // after q, k, v
constexpr std::array<const char*, 4> kTensorLetters{"q", "k", "v", "o"};
constexpr std::size_t kMostHeadDim = 256;
/// Values of one head; more is a damaged shape rather than a sequence.
constexpr hsize_t kMostHeadValues = hsize_t{1} << 32;

/// A dataset as it is read: opened once, kept until another one takes its place.
struct Tensor {
  std::string path;
  h5::Handle dataset;
  h5::Handle file_type;
  StoredType type;
  std::vector<hsize_t> dims;
};

/// Lengths of a tensor in HND order.
struct Axes {
  std::size_t batch, heads, length, dim;
};

Axes axes(const std::vector<hsize_t>& dims, Layout layout) {
  if (layout == Layout::hnd) return {dims[0], dims[1], dims[2], dims[3]};
  return {dims[0], dims[2], dims[1], dims[3]};
}

std::string list(const std::vector<hsize_t>& dims) {
  return fmt::format("[{}]", fmt::join(dims, ", "));
}

std::string parent(const std::string& path) {
  return path.substr(0, path.rfind('/'));
}

}  // namespace

const char* to_string(TensorName name) {
  return kTensorLetters.at(static_cast<std::size_t>(name));
}

struct CaptureReader::Impl {
  std::filesystem::path file;
  std::string file_name;
  ReaderOptions options;
  h5::Handle handle;
  bool foreign = false;
  std::string model, source;
  CaptureIndex index;
  std::vector<CellId> cells;
  std::array<Tensor, 4> tensors;
  std::vector<std::uint16_t> buffer;

  [[nodiscard]] std::string dataset_where(const std::string& path) const {
    return fmt::format("'{}', dataset '{}'", file_name, path);
  }
  void check_schema();
  Tensor& open(std::size_t tensor, const std::string& path);
  [[nodiscard]] AttributeScope attributes(const CellPaths& paths) const;
  void read_attributes(CellInfo& info, const CellPaths& paths);
  void read_shape(CellInfo& info);
  void check_output(const CellInfo& info);
  void read_bits(const CellInfo& cell, std::size_t tensor, std::size_t batch, std::size_t head, void* out);
  void read_matrix(const CellInfo& cell, std::size_t tensor, std::size_t batch, std::size_t head, Matrix& matrix);
};

CaptureReader::CaptureReader(const std::filesystem::path& file, const ReaderOptions& options)
    : impl_(std::make_unique<Impl>()) {
  impl_->file = file;
  impl_->file_name = file.string();
  impl_->options = options;
  impl_->foreign = !options.path_template.empty();
  const PathTemplate paths(impl_->foreign ? options.path_template : kSchemaPaths);
  impl_->handle = h5::open_file(file);
  impl_->check_schema();
  impl_->index = index_capture(impl_->handle.get(), file, paths);
  for (const auto& [id, unused] : impl_->index) impl_->cells.push_back(id);
}

CaptureReader::~CaptureReader() = default;
CaptureReader::CaptureReader(CaptureReader&&) noexcept = default;
CaptureReader& CaptureReader::operator=(CaptureReader&&) noexcept = default;

const std::filesystem::path& CaptureReader::file() const {
  return impl_->file;
}
const std::string& CaptureReader::model() const {
  return impl_->model;
}
const std::string& CaptureReader::source() const {
  return impl_->source;
}
const std::vector<CellId>& CaptureReader::cells() const {
  return impl_->cells;
}

/// Reads the attributes of the root. Files read by path template need none of them.
void CaptureReader::Impl::check_schema() {
  std::vector<h5::Handle> root;
  root.emplace_back(H5Gopen2(handle.get(), "/", H5P_DEFAULT));
  if (!root.front()) throw DataError(fmt::format("'{}' has no readable root group: {}", file_name, h5::last_error()));
  const AttributeScope scope(std::move(root), fmt::format("'{}'", file_name));
  if (foreign) {
    model = scope.text("model").value_or("");
    source = scope.text("source").value_or("");
    return;
  }
  const auto schema = scope.text("schema");
  if (!schema) {
    throw DataError(
        fmt::format("'{}' is not a capture: attribute schema=\"{}\" is missing (files of another layout "
                    "are read with a path template)",
                    file_name, kSchema));
  }
  if (*schema != kSchema) scope.refuse("schema", fmt::format("\"{}\"", kSchema), fmt::format("\"{}\"", *schema));
  const auto version = scope.need(scope.integer("schema_version"), "schema_version");
  if (version < 1 || version > kSchemaVersion) {
    scope.refuse("schema_version", fmt::format("{}, the newest that this program reads", kSchemaVersion),
                 fmt::format("{}", version));
  }
  model = scope.need(scope.text("model"), "model");
  source = scope.need(scope.text("source"), "source");
}

Tensor& CaptureReader::Impl::open(std::size_t tensor, const std::string& path) {
  Tensor& slot = tensors.at(tensor);
  if (slot.dataset && slot.path == path) return slot;
  const std::string where = dataset_where(path);
  Tensor fresh;
  fresh.path = path;
  fresh.dataset = open_dataset(handle.get(), path, where);
  fresh.type = stored_type(fresh.dataset.get(), where);
  fresh.file_type = h5::Handle(H5Dget_type(fresh.dataset.get()));
  fresh.dims = h5::extent(fresh.dataset.get());
  slot = std::move(fresh);
  return slot;
}

CellInfo CaptureReader::describe(const CellId& id) const {
  h5::prepare();
  const auto it = impl_->index.find(id);
  if (it == impl_->index.end()) {
    throw UsageError(fmt::format("'{}' holds no cell of layer {}, timestep {}, sample {}", impl_->file_name, id.layer,
                                 id.timestep, id.sample));
  }
  const CellPaths& paths = it->second;
  CellInfo info;
  info.id = id;
  for (std::size_t i = 0; i < info.paths.size(); ++i) {
    info.paths.at(i) = paths.tensors.at(i);
    if (info.paths.at(i).empty()) {
      throw DataError(fmt::format("'{}', group '{}': dataset {} is missing (layer {}, timestep {}, sample {})",
                                  impl_->file_name, paths.group, kTensorLetters.at(i), id.layer, id.timestep,
                                  id.sample));
    }
  }
  info.output_path = paths.tensors.at(kOutput);
  impl_->read_attributes(info, paths);
  impl_->read_shape(info);
  if (info.sm_scale == 0) info.sm_scale = 1.0F / std::sqrt(static_cast<float>(info.shape.head_dim));
  return info;
}

/// The schema keeps attributes with the group of the cell; foreign files may have them at q or at any group above.
AttributeScope CaptureReader::Impl::attributes(const CellPaths& paths) const {
  std::vector<h5::Handle> objects;
  if (!foreign) {
    objects.emplace_back(H5Gopen2(handle.get(), paths.group.c_str(), H5P_DEFAULT));
    return {std::move(objects), fmt::format("'{}', group '{}'", file_name, paths.group)};
  }
  for (std::string path = paths.tensors[0]; !path.empty(); path = parent(path)) {
    objects.emplace_back(H5Oopen(handle.get(), path.c_str(), H5P_DEFAULT));
  }
  objects.emplace_back(H5Gopen2(handle.get(), "/", H5P_DEFAULT));
  return {std::move(objects), dataset_where(paths.tensors[0])};
}

void CaptureReader::Impl::read_attributes(CellInfo& info, const CellPaths& paths) {
  const AttributeScope scope = attributes(paths);
  if (foreign) {
    info.layer_name = scope.text("layer_name").value_or(fmt::format("layer {}", info.id.layer));
    info.timestep_value = scope.number("timestep_value").value_or(info.id.timestep);
    info.is_causal = scope.flag("is_causal").value_or(options.is_causal.value_or(false));
  } else {
    const std::array<std::pair<const char*, int>, 3> ids{
        {{"layer", info.id.layer}, {"timestep", info.id.timestep}, {"sample", info.id.sample}}};
    for (const auto& [name, expected] : ids) {
      const auto value = scope.need(scope.integer(name), name);
      if (value != expected) scope.refuse(name, fmt::format("{} as in the path", expected), fmt::format("{}", value));
    }
    info.layer_name = scope.need(scope.text("layer_name"), "layer_name");
    info.timestep_value = scope.need(scope.number("timestep_value"), "timestep_value");
    info.is_causal = scope.need(scope.flag("is_causal"), "is_causal");
  }
  info.sample_name = scope.text("sample_name");
  info.cfg_branch = scope.text("cfg_branch");
  info.seed = scope.integer("seed");
  if (const auto layout = scope.text("layout")) {
    if (*layout != "HND" && *layout != "NHD") scope.refuse("layout", "\"HND\" or \"NHD\"", '"' + *layout + '"');
    info.layout = *layout == "HND" ? Layout::hnd : Layout::nhd;
  } else if (foreign) {
    info.layout = options.layout.value_or(Layout::hnd);
  }
  if (const auto align = scope.text("causal_align")) {
    if (*align != "bottom_right" && *align != "top_left") {
      scope.refuse("causal_align", "\"bottom_right\" or \"top_left\"", '"' + *align + '"');
    }
    info.causal_align = *align == "top_left" ? CausalAlign::top_left : CausalAlign::bottom_right;
  }
  auto scale = scope.number("sm_scale");
  if (!foreign) scope.need(scale, "sm_scale");
  if (!scale && options.sm_scale) scale = *options.sm_scale;
  if (!scale) {  // only in foreign files; the default needs the head dimension, which is not known yet
    info.sm_scale = 0;
    return;
  }
  info.sm_scale = static_cast<float>(*scale);
  if (!(info.sm_scale > 0 && std::isfinite(info.sm_scale))) {
    scope.refuse("sm_scale", "a positive finite number", fmt::format("{}", *scale));
  }
}

void CaptureReader::Impl::read_shape(CellInfo& info) {
  const char* const order = info.layout == Layout::hnd ? "[batch, heads, length, dim]" : "[batch, length, heads, dim]";
  std::array<Axes, 3> a{};
  info.dtype = DType::float16;
  for (std::size_t i = 0; i < 3; ++i) {
    const Tensor& tensor = open(i, info.paths.at(i));
    const std::string where = dataset_where(tensor.path);
    if (tensor.dims.size() != 4) {
      throw DataError(
          fmt::format("{}: expected rank 4 {}, found rank {} {}", where, order, tensor.dims.size(), list(tensor.dims)));
    }
    if (std::find(tensor.dims.begin(), tensor.dims.end(), 0) != tensor.dims.end()) {
      throw DataError(fmt::format("{}: shape {} has a zero-length axis", where, list(tensor.dims)));
    }
    a.at(i) = axes(tensor.dims, info.layout);
    if (a.at(i).dim > kMostHeadDim) {
      throw DataError(fmt::format("{}: head_dim {} is above {}, the largest that attention kernels handle{}", where,
                                  a.at(i).dim, kMostHeadDim,
                                  info.layout == Layout::hnd ? "" : " (the last axis of layout NHD)"));
    }
    if (a.at(i).length > kMostHeadValues / a.at(i).dim) {
      throw DataError(fmt::format("{}: shape {}: one head of it is larger than 2^32 values", where, list(tensor.dims)));
    }
    info.dtypes.at(i) = tensor.type.dtype;
    info.dtype = std::max(info.dtype, tensor.type.dtype);
    check_complete(handle.get(), tensor.dataset.get(), file, where);
  }
  const auto [q, k, v] = a;
  const auto same = [&](std::size_t tensor, const char* axis, std::size_t expected, std::size_t found, const char* of) {
    if (expected == found) return;
    throw DataError(fmt::format("{}: expected {} {} as in {}, found {} (shape {}, layout {})",
                                dataset_where(info.paths.at(tensor)), axis, expected, of, found,
                                list(tensors.at(tensor).dims), info.layout == Layout::hnd ? "HND" : "NHD"));
  };
  same(1, "batch", q.batch, k.batch, "q");
  same(2, "batch", q.batch, v.batch, "q");
  same(1, "head_dim", q.dim, k.dim, "q");
  same(2, "head_dim", q.dim, v.dim, "q");
  same(2, "heads", k.heads, v.heads, "k");
  same(2, "length", k.length, v.length, "k");
  if (q.heads % k.heads != 0) {
    throw DataError(fmt::format("{}: {} query heads are not a multiple of the {} key/value heads of '{}'",
                                dataset_where(info.paths[0]), q.heads, k.heads, info.paths[1]));
  }
  info.shape = {q.batch, q.heads, k.heads, q.length, k.length, q.dim};
  if (!info.output_path.empty()) check_output(info);
}

void CaptureReader::Impl::check_output(const CellInfo& info) {
  const Tensor& output = open(kOutput, info.output_path);
  const std::string where = dataset_where(info.output_path);
  if (output.dims != tensors[0].dims) {
    throw DataError(
        fmt::format("{}: expected the shape of q, {}, found {}", where, list(tensors[0].dims), list(output.dims)));
  }
  check_complete(handle.get(), output.dataset.get(), file, where);
}

/// Reads one head in the file's own type: HDF5 converts 16-bit floats at a fortieth of the speed of our own loops.
void CaptureReader::Impl::read_bits(const CellInfo& cell, std::size_t tensor, std::size_t batch, std::size_t head,
                                    void* out) {
  h5::prepare();
  const Tensor& t = open(tensor, tensor == kOutput ? cell.output_path : cell.paths.at(tensor));
  const Axes a = axes(t.dims, cell.layout);
  if (batch >= a.batch || head >= a.heads) {
    throw UsageError(fmt::format("{}: batch {}, head {} does not exist; it has {} and {}", dataset_where(t.path), batch,
                                 head, a.batch, a.heads));
  }
  const bool hnd = cell.layout == Layout::hnd;
  const std::array<hsize_t, 4> start{batch, hnd ? head : 0, hnd ? 0 : head, 0};
  const std::array<hsize_t, 4> count{1, hnd ? 1 : a.length, hnd ? a.length : 1, a.dim};
  const hsize_t values = a.length * a.dim;
  const h5::Handle space(H5Dget_space(t.dataset.get()));
  // Of the same rank as the file's: between selections of unequal shape HDF5 walks value by value.
  const h5::Handle memory(H5Screate_simple(4, count.data(), nullptr));
  H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr);
  if (H5Dread(t.dataset.get(), t.file_type.get(), memory.get(), space.get(), H5P_DEFAULT, out) < 0) {
    throw DataError(
        fmt::format("{}: batch {}, head {} cannot be read: {}", dataset_where(t.path), batch, head, h5::last_error()));
  }
  if (!t.type.big_endian) return;
  if (t.type.dtype == DType::float32) {
    swap_bytes(std::span(static_cast<std::uint32_t*>(out), values));
  } else {
    swap_bytes(std::span(static_cast<std::uint16_t*>(out), values));
  }
}

void CaptureReader::Impl::read_matrix(const CellInfo& cell, std::size_t tensor, std::size_t batch, std::size_t head,
                                      Matrix& matrix) {
  const Tensor& t = open(tensor, tensor == kOutput ? cell.output_path : cell.paths.at(tensor));
  const Axes a = axes(t.dims, cell.layout);
  matrix.rows = a.length;
  matrix.cols = a.dim;
  matrix.data.resize(a.length * a.dim);
  if (t.type.dtype == DType::float32) {
    read_bits(cell, tensor, batch, head, matrix.data.data());
    return;
  }
  buffer.resize(matrix.data.size());
  read_bits(cell, tensor, batch, head, buffer.data());
  if (t.type.dtype == DType::float16) {
    widen_float16(buffer, matrix.data);
  } else {
    widen_bfloat16(buffer, matrix.data);
  }
}

Matrix CaptureReader::read_head(const CellInfo& cell, TensorName name, std::size_t batch, std::size_t head) const {
  Matrix matrix;
  read_head(cell, name, batch, head, matrix);
  return matrix;
}

void CaptureReader::read_head(const CellInfo& cell, TensorName name, std::size_t batch, std::size_t head,
                              Matrix& matrix) const {
  impl_->read_matrix(cell, static_cast<std::size_t>(name), batch, head, matrix);
}

void CaptureReader::read_head_bits(const CellInfo& cell, TensorName name, std::size_t batch, std::size_t head,
                                   std::vector<std::byte>& bits) const {
  const auto tensor = static_cast<std::size_t>(name);
  const std::size_t length = name == TensorName::q ? cell.shape.q_len : cell.shape.kv_len;
  bits.resize(length * cell.shape.head_dim * byte_size(cell.dtypes.at(tensor)));
  impl_->read_bits(cell, tensor, batch, head, bits.data());
}

Matrix CaptureReader::read_output(const CellInfo& cell, std::size_t batch, std::size_t q_head) const {
  Matrix matrix;
  impl_->read_matrix(cell, kOutput, batch, q_head, matrix);
  return matrix;
}

HeadProblem CaptureReader::read_problem(const CellInfo& cell, std::size_t batch, std::size_t q_head) const {
  const std::size_t kv_head = cell.shape.kv_head(q_head);
  HeadProblem problem;
  problem.q = read_head(cell, TensorName::q, batch, q_head);
  problem.k = read_head(cell, TensorName::k, batch, kv_head);
  problem.v = read_head(cell, TensorName::v, batch, kv_head);
  problem.dtype = cell.dtype;
  problem.is_causal = cell.is_causal;
  problem.causal_align = cell.causal_align;
  problem.sm_scale = cell.sm_scale;
  return problem;
}

}  // namespace sage2
