#include "datasets/capture_writer.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <vector>

#include "datasets/convert.hpp"
#include "datasets/error.hpp"
#include "datasets/hdf5.hpp"
#include "datasets/stored_type.hpp"
#include "fmt/format.h"

namespace sage2 {
namespace {

constexpr std::size_t kChunkTokens = 128;
constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

/// Tokens of a chunk: the largest multiple of 128 that stays below 1 MiB, or the whole sequence.
std::size_t chunk_tokens(std::size_t length, std::size_t row_bytes) {
  const std::size_t blocks = std::max<std::size_t>(kChunkBytes / (row_bytes * kChunkTokens), 1);
  return std::min(length, blocks * kChunkTokens);
}

/// Axes of a tensor in the order of its layout.
std::array<hsize_t, 4> ordered(Layout layout, std::size_t batch, std::size_t heads, std::size_t length,
                               std::size_t dim) {
  if (layout == Layout::hnd) return {batch, heads, length, dim};
  return {batch, length, heads, dim};
}

}  // namespace

struct CaptureWriter::Impl {
  std::filesystem::path target, temporary;
  WriterOptions options;
  h5::Handle file;
  CellInfo cell;
  std::array<h5::Handle, 3> datasets;
  std::array<std::vector<bool>, 3> written;  ///< by batch and head
  std::vector<std::uint16_t> buffer;

  ~Impl() { discard(); }
  /// Closes what is open, without a word on errors, and removes the unfinished file.
  void discard() {
    datasets = {};
    if (file) H5Fclose(file.release());
    if (temporary.empty()) return;
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    temporary.clear();
  }
  [[noreturn]] void fail(std::string reason) {
    if (reason.empty()) reason = "unknown error";
    discard();
    throw DataError(fmt::format("'{}' cannot be written: {}", target.string(), reason));
  }
  void check(bool ok) {
    if (!ok) fail(h5::last_error());
  }
  void check_cell_complete() const {
    for (std::size_t i = 0; i < written.size(); ++i) {
      const auto& heads = written.at(i);
      const auto missing = std::find(heads.begin(), heads.end(), false);
      if (missing == heads.end()) continue;
      throw UsageError(fmt::format("'{}': head {} of {} of layer {}, timestep {} was never written", target.string(),
                                   missing - heads.begin(), to_string(static_cast<TensorName>(i)), cell.id.layer,
                                   cell.id.timestep));
    }
  }
  void write_attributes(hid_t group);
  void create_dataset(hid_t group, TensorName name, std::size_t heads, std::size_t length);
};

CaptureWriter::CaptureWriter(const std::filesystem::path& file, const WriterOptions& options)
    : impl_(std::make_unique<Impl>()) {
  h5::prepare();
  impl_->target = file;
  impl_->options = options;
  const std::string name = fmt::format("{}.{}.part", file.string(), getpid());
  // The system says why a file cannot be created; HDF5 would only say that it failed.
  const int descriptor = ::open(name.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) impl_->fail(std::generic_category().message(errno));
  ::close(descriptor);
  impl_->temporary = name;
  const h5::Handle access(H5Pcreate(H5P_FILE_ACCESS));
  H5Pset_libver_bounds(access.get(), H5F_LIBVER_EARLIEST, H5F_LIBVER_V110);
  impl_->file = h5::Handle(H5Fcreate(name.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()));
  impl_->check(static_cast<bool>(impl_->file));
  const h5::Handle root(H5Gopen2(impl_->file.get(), "/", H5P_DEFAULT));
  impl_->check(h5::write_attribute(root.get(), "schema", std::string("sage2-capture")) &&
               h5::write_attribute(root.get(), "schema_version", std::int64_t{1}) &&
               h5::write_attribute(root.get(), "model", options.model) &&
               h5::write_attribute(root.get(), "source", options.source));
}

CaptureWriter::~CaptureWriter() = default;
CaptureWriter::CaptureWriter(CaptureWriter&&) noexcept = default;
CaptureWriter& CaptureWriter::operator=(CaptureWriter&&) noexcept = default;

void CaptureWriter::begin_cell(const CellInfo& cell) {
  impl_->check_cell_complete();
  h5::prepare();
  impl_->cell = cell;
  impl_->datasets = {};
  const std::string path = fmt::format("/layers/{:03}/{:04}/{:03}", cell.id.layer, cell.id.timestep, cell.id.sample);
  if (h5::exists(impl_->file.get(), path)) {
    throw DataError(fmt::format("'{}' already holds group '{}'", impl_->target.string(), path));
  }
  const h5::Handle links(H5Pcreate(H5P_LINK_CREATE));
  H5Pset_create_intermediate_group(links.get(), 1);
  const h5::Handle group(H5Gcreate2(impl_->file.get(), path.c_str(), links.get(), H5P_DEFAULT, H5P_DEFAULT));
  impl_->check(static_cast<bool>(group));
  impl_->write_attributes(group.get());
  const Shape& s = cell.shape;
  impl_->create_dataset(group.get(), TensorName::q, s.q_heads, s.q_len);
  impl_->create_dataset(group.get(), TensorName::k, s.kv_heads, s.kv_len);
  impl_->create_dataset(group.get(), TensorName::v, s.kv_heads, s.kv_len);
}

void CaptureWriter::Impl::write_attributes(hid_t group) {
  const auto write = [&](const char* name, const auto& value) { check(h5::write_attribute(group, name, value)); };
  write("layer", std::int64_t{cell.id.layer});
  write("layer_name", cell.layer_name);
  write("timestep", std::int64_t{cell.id.timestep});
  write("timestep_value", cell.timestep_value);
  write("sample", std::int64_t{cell.id.sample});
  write("is_causal", std::int64_t{cell.is_causal ? 1 : 0});
  write("sm_scale", static_cast<double>(cell.sm_scale));
  write("layout", std::string(cell.layout == Layout::hnd ? "HND" : "NHD"));
  if (cell.causal_align == CausalAlign::top_left) write("causal_align", std::string("top_left"));
  if (cell.cfg_branch) write("cfg_branch", *cell.cfg_branch);
  if (cell.sample_name) write("sample_name", *cell.sample_name);
  if (cell.seed) write("seed", *cell.seed);
}

void CaptureWriter::Impl::create_dataset(hid_t group, TensorName name, std::size_t heads, std::size_t length) {
  const Shape& s = cell.shape;
  const auto dims = ordered(cell.layout, s.batch, heads, length, s.head_dim);
  const auto chunk = ordered(cell.layout, 1, 1, chunk_tokens(length, s.head_dim * byte_size(cell.dtype)), s.head_dim);
  const h5::Handle type = make_stored_type(cell.dtype);
  const h5::Handle space(H5Screate_simple(4, dims.data(), nullptr));
  const h5::Handle creation(H5Pcreate(H5P_DATASET_CREATE));
  H5Pset_chunk(creation.get(), 4, chunk.data());
  H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER);  // every value is written
  if (options.gzip > 0) {
    H5Pset_shuffle(creation.get());
    H5Pset_deflate(creation.get(), static_cast<unsigned>(options.gzip));
  }
  // Without a cache each chunk goes to the disk at once, and so does the news that the disk is full.
  const h5::Handle access(H5Pcreate(H5P_DATASET_ACCESS));
  H5Pset_chunk_cache(access.get(), 1, 0, 1.0);
  h5::Handle dataset(
      H5Dcreate2(group, to_string(name), type.get(), space.get(), H5P_DEFAULT, creation.get(), access.get()));
  check(static_cast<bool>(dataset));
  check(h5::write_attribute(dataset.get(), "dtype", std::string(to_string(cell.dtype))));
  datasets.at(static_cast<std::size_t>(name)) = std::move(dataset);
  written.at(static_cast<std::size_t>(name)).assign(s.batch * heads, false);
}

void CaptureWriter::write_head(TensorName name, std::size_t batch, std::size_t head, const Matrix& values) {
  h5::prepare();
  const CellInfo& cell = impl_->cell;
  const auto tensor = static_cast<std::size_t>(name);
  const std::size_t heads = name == TensorName::q ? cell.shape.q_heads : cell.shape.kv_heads;
  const std::size_t length = name == TensorName::q ? cell.shape.q_len : cell.shape.kv_len;
  if (!impl_->datasets.at(tensor) || batch >= cell.shape.batch || head >= heads || values.rows != length ||
      values.cols != cell.shape.head_dim) {
    throw UsageError(fmt::format("'{}': batch {}, head {} of {} with {} x {} values does not fit its cell",
                                 impl_->target.string(), batch, head, to_string(name), values.rows, values.cols));
  }
  const void* bits = values.data.data();
  if (cell.dtype != DType::float32) {
    impl_->buffer.resize(values.data.size());
    if (cell.dtype == DType::float16) {
      narrow_float16(values.data, impl_->buffer);
    } else {
      narrow_bfloat16(values.data, impl_->buffer);
    }
    bits = impl_->buffer.data();
  }
  const auto start = ordered(cell.layout, batch, head, 0, 0);
  const auto count = ordered(cell.layout, 1, 1, length, cell.shape.head_dim);
  const hid_t dataset = impl_->datasets.at(tensor).get();
  const h5::Handle type(H5Dget_type(dataset));
  const h5::Handle space(H5Dget_space(dataset));
  const h5::Handle memory(H5Screate_simple(4, count.data(), nullptr));  // of equal rank: see the reader
  H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr);
  impl_->check(H5Dwrite(dataset, type.get(), memory.get(), space.get(), H5P_DEFAULT, bits) >= 0);
  impl_->written.at(tensor).at(batch * heads + head) = true;
}

void CaptureWriter::finish() {
  h5::prepare();
  impl_->check_cell_complete();
  impl_->datasets = {};
  impl_->check(H5Fflush(impl_->file.get(), H5F_SCOPE_GLOBAL) >= 0);
  impl_->check(H5Fclose(impl_->file.release()) >= 0);
  std::error_code code;
  std::filesystem::rename(impl_->temporary, impl_->target, code);
  if (code) impl_->fail(code.message());
  impl_->temporary.clear();
}

}  // namespace sage2
