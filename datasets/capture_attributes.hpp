#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "datasets/hdf5.hpp"

/// Attributes of one cell, looked up in the objects that may carry them.
namespace sage2 {

class AttributeScope {
 public:
  /// `objects` are searched in order; `where` begins every message ("'f.h5', group '/layers/000/0000/000'").
  AttributeScope(std::vector<h5::Handle> objects, std::string where)
      : objects_(std::move(objects)), where_(std::move(where)) {}

  /// Empty where no object has the attribute; DataError where it is there but is not such a value.
  [[nodiscard]] std::optional<std::int64_t> integer(const char* name) const;
  [[nodiscard]] std::optional<double> number(const char* name) const;
  [[nodiscard]] std::optional<std::string> text(const char* name) const;
  [[nodiscard]] std::optional<bool> flag(const char* name) const;

  /// The value, or DataError that the attribute is missing.
  template <typename T>
  T need(const std::optional<T>& value, const char* name) const {
    if (!value) missing(name);
    return *value;
  }

  /// DataError: attribute `name` is not what was expected.
  [[noreturn]] void refuse(const char* name, const std::string& expected, const std::string& found) const;

 private:
  [[nodiscard]] h5::Attribute find(const char* name) const;
  [[noreturn]] void missing(const char* name) const;

  std::vector<h5::Handle> objects_;
  std::string where_;
};

}  // namespace sage2
