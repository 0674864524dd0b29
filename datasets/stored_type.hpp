#pragma once

#include <string>

#include "datasets/hdf5.hpp"
#include "datasets/problem.hpp"

/// What the bits of a dataset mean. 16-bit forms are told apart by their bit fields, never by size, since neither
/// float16 nor bfloat16 has a native HDF5 type in the versions that distributions ship.
namespace sage2 {

struct StoredType {
  DType dtype = DType::float16;
  bool big_endian = false;
};

/// Format of a dataset from its HDF5 type and its attribute "dtype" (the latter decides for integers and opaque types,
/// which hold bare bits). Throws DataError, beginning with `where`, for any other type and for a contradiction.
[[nodiscard]] StoredType stored_type(hid_t dataset, const std::string& where);

/// The HDF5 type a format is written as: float16 as h5py does, bfloat16 as uint16 (with the attribute), float32.
[[nodiscard]] h5::Handle make_stored_type(DType dtype);

}  // namespace sage2
