#include "datasets/capture_attributes.hpp"

#include <cmath>

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {
namespace {

std::string describe(const h5::Attribute& value) {
  if (const auto* integer = std::get_if<std::int64_t>(&value)) return fmt::format("{}", *integer);
  if (const auto* number = std::get_if<double>(&value)) return fmt::format("{}", *number);
  if (const auto* text = std::get_if<std::string>(&value)) return fmt::format("\"{}\"", *text);
  return "something that is neither one number nor one string";
}

}  // namespace

h5::Attribute AttributeScope::find(const char* name) const {
  for (const h5::Handle& object : objects_) {
    auto value = h5::read_attribute(object.get(), name);
    if (!std::holds_alternative<std::monostate>(value)) return value;
  }
  return {};
}

std::optional<std::int64_t> AttributeScope::integer(const char* name) const {
  const auto value = find(name);
  if (std::holds_alternative<std::monostate>(value)) return std::nullopt;
  if (const auto* integer = std::get_if<std::int64_t>(&value)) return *integer;
  constexpr double kExact = 9007199254740992.0;  // 2^53
  if (const auto* number = std::get_if<double>(&value)) {
    if (std::abs(*number) <= kExact && *number == std::trunc(*number)) return static_cast<std::int64_t>(*number);
  }
  refuse(name, "an integer", describe(value));
}

std::optional<double> AttributeScope::number(const char* name) const {
  const auto value = find(name);
  if (std::holds_alternative<std::monostate>(value)) return std::nullopt;
  if (const auto* number = std::get_if<double>(&value)) return *number;
  if (const auto* integer = std::get_if<std::int64_t>(&value)) return static_cast<double>(*integer);
  refuse(name, "a number", describe(value));
}

std::optional<std::string> AttributeScope::text(const char* name) const {
  const auto value = find(name);
  if (std::holds_alternative<std::monostate>(value)) return std::nullopt;
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  refuse(name, "a string", describe(value));
}

std::optional<bool> AttributeScope::flag(const char* name) const {
  const auto value = integer(name);
  if (!value) return std::nullopt;
  if (*value != 0 && *value != 1) refuse(name, "0 or 1", fmt::format("{}", *value));
  return *value == 1;
}

void AttributeScope::refuse(const char* name, const std::string& expected, const std::string& found) const {
  throw DataError(fmt::format("{}: attribute {}: expected {}, found {}", where_, name, expected, found));
}

void AttributeScope::missing(const char* name) const {
  throw DataError(fmt::format("{}: attribute {} is missing", where_, name));
}

}  // namespace sage2
