#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "datasets/error.hpp"
#include "reference/variant.hpp"

/// Any text is a variant whose canonical spelling means the same, or is refused with a UsageError.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  for (const auto& one : sage2::split_variants(text)) {
    try {
      const auto variant = sage2::parse_variant(one);
      const auto spelling = sage2::canonical(variant);
      if (sage2::parse_variant(spelling) != variant || sage2::canonical(variant) != spelling) std::abort();
    } catch (const sage2::UsageError&) {
    }
  }
  return 0;
}
