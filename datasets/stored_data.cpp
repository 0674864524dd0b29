#include "datasets/stored_data.hpp"

#include <vector>

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {
namespace {

/// Enough for the chunks of one head of a long sequence with its neighbours.
constexpr std::size_t kChunkCache = std::size_t{64} << 20;

/// Chunks are cached where they must be decompressed or where they hold several heads, so that reading one head after
/// another works on each chunk once. Chunks of one head go straight to the reader's memory.
bool needs_cache(hid_t creation, std::size_t rank) {
  if (H5Pget_nfilters(creation) > 0) return true;
  std::vector<hsize_t> chunk(rank);
  if (H5Pget_chunk(creation, static_cast<int>(rank), chunk.data()) < 0 || rank != 4) return true;
  return chunk[1] != 1 || chunk[0] != 1;
}

void check_chunks(hid_t dataset, hid_t creation, const std::string& where) {
  const std::vector<hsize_t> dims = h5::extent(dataset);
  std::vector<hsize_t> chunk(dims.size());
  H5Pget_chunk(creation, static_cast<int>(dims.size()), chunk.data());
  double expected = 1;  // a damaged shape may overflow integers
  for (std::size_t i = 0; i < dims.size(); ++i) {
    const hsize_t chunks = (dims[i] - 1) / chunk[i] + 1;
    expected *= static_cast<double>(chunks);
  }
  const h5::Handle space(H5Dget_space(dataset));
  hsize_t found = 0;
  if (H5Dget_num_chunks(dataset, space.get(), &found) < 0) {
    throw DataError(fmt::format("{}: its list of chunks cannot be read: {}", where, h5::last_error()));
  }
  if (static_cast<double>(found) != expected) {
    throw DataError(fmt::format("{}: only {} of its {:.0f} chunks were ever written", where, found, expected));
  }
}

void check_contiguous(hid_t file, hid_t dataset, hid_t creation, const std::string& where) {
  if (H5Pget_external_count(creation) > 0) return;  // in files of its own, which HDF5 does miss
  double expected = static_cast<double>(H5Tget_size(h5::Handle(H5Dget_type(dataset)).get()));
  for (const hsize_t n : h5::extent(dataset)) expected *= static_cast<double>(n);
  const haddr_t offset = H5Dget_offset(dataset);
  const hsize_t stored = H5Dget_storage_size(dataset);
  hsize_t file_size = 0;
  H5Fget_filesize(file, &file_size);
  if (offset == HADDR_UNDEF || static_cast<double>(stored) < expected) {
    throw DataError(fmt::format("{}: its values were never written", where));
  }
  if (static_cast<double>(offset) + expected > static_cast<double>(file_size)) {
    throw DataError(fmt::format("{}: its values end beyond the end of the file", where));
  }
}

void check_sources(hid_t creation, const std::filesystem::path& name, const std::string& where) {
  std::size_t count = 0;
  H5Pget_virtual_count(creation, &count);
  for (std::size_t i = 0; i < count; ++i) {
    const ssize_t length = H5Pget_virtual_filename(creation, i, nullptr, 0);
    if (length < 0) throw DataError(fmt::format("{}: a source of this virtual dataset has no name", where));
    std::string source(static_cast<std::size_t>(length) + 1, '\0');
    H5Pget_virtual_filename(creation, i, source.data(), source.size());
    source.resize(static_cast<std::size_t>(length));
    if (source == "." || std::filesystem::exists(name.parent_path() / source)) continue;
    throw DataError(fmt::format("{}: '{}', a source of this virtual dataset, does not exist", where, source));
  }
}

}  // namespace

h5::Handle open_dataset(hid_t file, const std::string& path, const std::string& where) {
  h5::Handle dataset(H5Dopen2(file, path.c_str(), H5P_DEFAULT));
  if (!dataset) {
    if (h5::object_type(file, path) == H5O_TYPE_GROUP) {
      throw DataError(fmt::format("{}: expected a dataset, found a group", where));
    }
    throw DataError(fmt::format("{}: cannot be opened: {}", where, h5::last_error()));
  }
  const h5::Handle creation(H5Dget_create_plist(dataset.get()));
  if (H5Pget_layout(creation.get()) != H5D_CHUNKED) return dataset;
  const bool cache = needs_cache(creation.get(), h5::extent(dataset.get()).size());
  const h5::Handle access(H5Pcreate(H5P_DATASET_ACCESS));
  H5Pset_chunk_cache(access.get(), 521, cache ? kChunkCache : 0, 1.0);
  dataset = h5::Handle();  // a dataset that is still open would keep its cache
  return h5::Handle(H5Dopen2(file, path.c_str(), access.get()));
}

void check_complete(hid_t file, hid_t dataset, const std::filesystem::path& name, const std::string& where) {
  const h5::Handle creation(H5Dget_create_plist(dataset));
  switch (H5Pget_layout(creation.get())) {
    case H5D_CHUNKED:
      check_chunks(dataset, creation.get(), where);
      break;
    case H5D_CONTIGUOUS:
      check_contiguous(file, dataset, creation.get(), where);
      break;
    case H5D_VIRTUAL:
      check_sources(creation.get(), name, where);
      break;
    default:
      break;  // compact: stored with the header
  }
}

}  // namespace sage2
