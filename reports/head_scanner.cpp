#include "reports/head_scanner.hpp"

#include <array>
#include <charconv>
#include <limits>

namespace sage2 {
namespace {

struct Field {
  std::string_view name;
  double ErrorMetrics::*value;
};

constexpr std::array<Field, 8> kFields{{{"cos_sim", &ErrorMetrics::cos_sim},
                                        {"rel_l1", &ErrorMetrics::rel_l1},
                                        {"rmse", &ErrorMetrics::rmse},
                                        {"max_abs", &ErrorMetrics::max_abs},
                                        {"p50", &ErrorMetrics::p50},
                                        {"p90", &ErrorMetrics::p90},
                                        {"p99", &ErrorMetrics::p99},
                                        {"p999", &ErrorMetrics::p999}}};

struct OptionalField {
  std::string_view name;
  std::optional<double> ErrorMetrics::*value;
};

constexpr std::array<OptionalField, 3> kOptionalFields{{{"cos_sim_se", &ErrorMetrics::cos_sim_se},
                                                        {"rel_l1_se", &ErrorMetrics::rel_l1_se},
                                                        {"rmse_se", &ErrorMetrics::rmse_se}}};

/// Steps through text without blanks; every function is false (and the scan over) where the text is not as expected.
struct Scanner {
  const char* at;
  const char* end;

  bool take(char c) {
    if (at == end || *at != c) return false;
    ++at;
    return true;
  }

  bool take(std::string_view text) {
    if (static_cast<std::size_t>(end - at) < text.size() || std::string_view(at, text.size()) != text) return false;
    at += text.size();
    return true;
  }

  bool key(std::string_view& name) {
    if (!take('"')) return false;
    const char* first = at;
    while (at != end && *at != '"' && *at != '\\') ++at;
    name = {first, static_cast<std::size_t>(at - first)};
    return take("\":");
  }

  /// JSON has no NaN: null stands for it.
  bool number(double& value) {
    if (take("null")) {
      value = std::numeric_limits<double>::quiet_NaN();
      return true;
    }
    const auto [next, error] = std::from_chars(at, end, value);
    if (error != std::errc() || next == at) return false;
    at = next;
    return true;
  }

  bool integer(int& value) {
    const auto [next, error] = std::from_chars(at, end, value);
    if (error != std::errc()) return false;
    at = next;
    return at != end && (*at == ',' || *at == '}');
  }
};

/// One member of a head; `seen` counts the members that every head must have.
bool scan_member(Scanner& in, HeadRecord& head, int& seen) {
  std::string_view name;
  if (!in.key(name)) return false;
  for (const auto& f : kFields) {
    if (name == f.name) return ++seen, in.number(head.metrics.*f.value);
  }
  for (const auto& f : kOptionalFields) {
    if (name == f.name) return in.number((head.metrics.*f.value).emplace());
  }
  if (name == "batch") return ++seen, in.integer(head.batch);
  return name == "head" && (++seen, in.integer(head.head));
}

bool scan_head(Scanner& in, HeadRecord& head) {
  if (!in.take('{')) return false;
  int seen = 0;
  do {
    if (!scan_member(in, head, seen)) return false;
  } while (in.take(','));
  return in.take('}') && seen == static_cast<int>(kFields.size()) + 2;
}

}  // namespace

std::optional<SplitLine> split_heads(std::string_view line) {
  // Quotes inside a JSON string are escaped, so this can only be a key.
  constexpr std::string_view kKey = "\"heads\":[";
  const auto begin = line.find(kKey);
  if (begin == std::string_view::npos) return std::nullopt;
  const char* first = line.data() + begin + kKey.size();
  Scanner in{first, line.data() + line.size()};
  SplitLine split;
  if (!in.take(']')) {
    do {
      if (!scan_head(in, split.heads.emplace_back())) return std::nullopt;
    } while (in.take(','));
    if (!in.take(']')) return std::nullopt;
  }
  split.rest.assign(line.data(), first);
  split.rest.append(in.at - 1, in.end);
  return split;
}

}  // namespace sage2
