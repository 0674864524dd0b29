#include "datasets/stored_type.hpp"

#include <optional>

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {
namespace {

/// Positions and widths of a binary floating-point type.
struct BitFields {
  std::size_t sign = 0, exponent = 0, exponent_bits = 0, fraction = 0, fraction_bits = 0;
  bool operator==(const BitFields&) const = default;
};
constexpr BitFields kFloat16{15, 10, 5, 0, 10};
constexpr BitFields kBFloat16{15, 7, 8, 0, 7};
constexpr BitFields kFloat32{31, 23, 8, 0, 23};

/// "float16" and "torch.float16" alike.
std::optional<DType> parse_dtype(const h5::Attribute& attribute) {
  const auto* text = std::get_if<std::string>(&attribute);
  if (text == nullptr) return std::nullopt;
  const std::string name = text->rfind("torch.", 0) == 0 ? text->substr(6) : *text;
  for (const DType dtype : {DType::float16, DType::bfloat16, DType::float32}) {
    if (name == to_string(dtype)) return dtype;
  }
  return std::nullopt;
}

/// True for the bias that belongs to the fields. bfloat16 also occurs with bias 15, in files whose writer derived the
/// type from float16 and set the fields only; the bits are bfloat16 all the same.
bool known_bias(DType dtype, std::size_t bias) {
  if (dtype == DType::float16) return bias == 15;
  if (dtype == DType::bfloat16) return bias == 127 || bias == 15;
  return bias == 127;
}

DType float_dtype(hid_t type, const std::string& where) {
  BitFields f;
  H5Tget_fields(type, &f.sign, &f.exponent, &f.exponent_bits, &f.fraction, &f.fraction_bits);
  const std::size_t bias = H5Tget_ebias(type);
  const std::size_t size = H5Tget_size(type);
  std::optional<DType> dtype;
  if (size == 2 && f == kFloat16) dtype = DType::float16;
  if (size == 2 && f == kBFloat16) dtype = DType::bfloat16;
  if (size == 4 && f == kFloat32) dtype = DType::float32;
  if (dtype && known_bias(*dtype, bias)) return *dtype;
  throw DataError(fmt::format(
      "{}: expected float16, bfloat16 or float32, found a {}-bit float (sign at {}, {} exponent bits at {}, "
      "{} fraction bits at {}, bias {})",
      where, size * 8, f.sign, f.exponent_bits, f.exponent, f.fraction_bits, f.fraction, bias));
}

const char* class_name(H5T_class_t type_class) {
  switch (type_class) {
    case H5T_INTEGER:
      return "integer";
    case H5T_STRING:
      return "string";
    case H5T_BITFIELD:
      return "bit field";
    case H5T_OPAQUE:
      return "opaque";
    case H5T_COMPOUND:
      return "compound";
    case H5T_REFERENCE:
      return "reference";
    case H5T_ENUM:
      return "enumeration";
    case H5T_VLEN:
      return "variable-length";
    case H5T_ARRAY:
      return "array";
    default:
      return "unknown";
  }
}

/// Integers and opaque types hold bare bits: the attribute, or h5py's tag of an opaque type, says which.
DType bare_dtype(hid_t type, H5T_class_t type_class, std::optional<DType> attribute, const std::string& where) {
  if (type_class == H5T_OPAQUE && !attribute) {
    char* const tag = H5Tget_tag(type);
    const std::string text = tag != nullptr ? tag : "";
    H5free_memory(tag);
    if (text.find("bfloat16") != std::string::npos) attribute = DType::bfloat16;
  }
  const std::size_t size = H5Tget_size(type);
  if (size == 2 && !attribute) {
    throw DataError(
        fmt::format("{}: expected attribute dtype=\"bfloat16\" or \"float16\" on a 16-bit {} type, found none", where,
                    class_name(type_class)));
  }
  if (size == 2 && *attribute != DType::float32) return *attribute;
  throw DataError(fmt::format("{}: expected float16, bfloat16 or float32, found a {}-bit {} type{}", where, size * 8,
                              class_name(type_class),
                              attribute ? fmt::format(" with dtype=\"{}\"", to_string(*attribute)) : ""));
}

}  // namespace

StoredType stored_type(hid_t dataset, const std::string& where) {
  const h5::Handle type(H5Dget_type(dataset));
  const H5T_class_t type_class = H5Tget_class(type.get());
  const auto attribute = parse_dtype(h5::read_attribute(dataset, "dtype"));
  StoredType stored;
  if (type_class == H5T_FLOAT) {
    stored.dtype = float_dtype(type.get(), where);
    if (attribute && *attribute != stored.dtype) {
      throw DataError(fmt::format("{}: attribute dtype says {}, its HDF5 type is {}", where, to_string(*attribute),
                                  to_string(stored.dtype)));
    }
    stored.big_endian = H5Tget_order(type.get()) == H5T_ORDER_BE;
  } else if (type_class == H5T_INTEGER || type_class == H5T_OPAQUE) {
    stored.dtype = bare_dtype(type.get(), type_class, attribute, where);
    stored.big_endian = type_class == H5T_INTEGER && H5Tget_order(type.get()) == H5T_ORDER_BE;
  } else {
    throw DataError(
        fmt::format("{}: expected float16, bfloat16 or float32, found {} type", where, class_name(type_class)));
  }
  return stored;
}

h5::Handle make_stored_type(DType dtype) {
  if (dtype == DType::bfloat16) return h5::Handle(H5Tcopy(H5T_STD_U16LE));
  h5::Handle type(H5Tcopy(H5T_IEEE_F32LE));
  if (dtype == DType::float32) return type;
  H5Tset_fields(type.get(), kFloat16.sign, kFloat16.exponent, kFloat16.exponent_bits, kFloat16.fraction,
                kFloat16.fraction_bits);
  H5Tset_size(type.get(), 2);  // only once the fields fit into two bytes
  H5Tset_ebias(type.get(), 15);
  return type;
}

}  // namespace sage2
