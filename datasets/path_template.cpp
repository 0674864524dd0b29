#include "datasets/path_template.hpp"

#include <algorithm>
#include <array>
#include <charconv>

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {
namespace {

/// Names of tensors as people write them. Longer ones first, since the first that fits is tried first.
struct TensorWord {
  std::string_view word;
  std::size_t tensor;
};
constexpr std::array<TensorWord, 17> kTensorWords{{{"query", 0},
                                                   {"Query", 0},
                                                   {"q", 0},
                                                   {"Q", 0},
                                                   {"key", 1},
                                                   {"Key", 1},
                                                   {"k", 1},
                                                   {"K", 1},
                                                   {"value", 2},
                                                   {"Value", 2},
                                                   {"v", 2},
                                                   {"V", 2},
                                                   {"output", 3},
                                                   {"out", 3},
                                                   {"Out", 3},
                                                   {"o", 3},
                                                   {"O", 3}}};

constexpr std::size_t kMostDigits = 9;  // what fits an int

std::size_t count_digits(std::string_view text) {
  const auto* end = std::find_if(text.begin(), text.end(), [](char c) { return c < '0' || c > '9'; });
  return static_cast<std::size_t>(end - text.begin());
}

}  // namespace

PathTemplate::PathTemplate(std::string_view text) : text_(text) {
  if (!text.empty() && text.front() == '/') text.remove_prefix(1);
  while (!text.empty()) {
    const auto slash = std::min(text.find('/'), text.size());
    levels_.push_back(parse_level(text.substr(0, slash)));
    if (slash + 1 == text.size()) throw UsageError(fmt::format("path template '{}' ends in a slash", text_));
    text.remove_prefix(std::min(slash + 1, text.size()));
  }
  check();
}

PathTemplate::Level PathTemplate::parse_level(std::string_view name) const {
  if (name.empty()) throw UsageError(fmt::format("path template '{}' has an empty name between two slashes", text_));
  constexpr std::array<std::pair<std::string_view, Kind>, 4> known{
      {{"layer", Kind::layer}, {"timestep", Kind::timestep}, {"sample", Kind::sample}, {"tensor", Kind::tensor}}};
  Level level;
  while (!name.empty()) {
    const auto open = std::min(name.find('{'), name.size());
    if (open > 0) level.push_back({Kind::literal, std::string(name.substr(0, open))});
    name.remove_prefix(open);
    if (name.empty()) break;
    const auto close = name.find('}');
    if (close == std::string_view::npos) {
      throw UsageError(fmt::format("path template '{}' has an opening brace without a closing one", text_));
    }
    const std::string_view word = name.substr(1, close - 1);
    const auto* it = std::find_if(known.begin(), known.end(), [&](const auto& entry) { return entry.first == word; });
    if (it == known.end()) {
      throw UsageError(
          fmt::format("path template '{}': unknown place holder '{{{}}}', expected {{layer}}, {{timestep}}, "
                      "{{sample}} or {{tensor}}",
                      text_, word));
    }
    level.push_back({it->second, std::string(word)});
    name.remove_prefix(close + 1);
  }
  return level;
}

void PathTemplate::check() const {
  std::array<int, 5> used{};
  for (const Level& level : levels_) {
    bool number_before = false;
    for (const Part& part : level) {
      ++used[static_cast<std::size_t>(part.kind)];
      const bool number = part.kind != Kind::literal && part.kind != Kind::tensor;
      if (number && number_before) {
        throw UsageError(fmt::format("path template '{}': two numbers need something between them", text_));
      }
      number_before = number;
      if (part.kind != Kind::literal && used[static_cast<std::size_t>(part.kind)] > 1) {
        throw UsageError(fmt::format("path template '{}' uses '{{{}}}' twice", text_, part.text));
      }
    }
  }
  if (used[static_cast<std::size_t>(Kind::tensor)] == 0) {
    throw UsageError(fmt::format("path template '{}' lacks '{{tensor}}', which stands for q, k and v", text_));
  }
}

std::optional<std::string> PathTemplate::literal(std::size_t level) const {
  const Level& parts = levels_.at(level);
  if (parts.size() == 1 && parts.front().kind == Kind::literal) return parts.front().text;
  return std::nullopt;
}

bool PathTemplate::is_tensor(std::size_t level) const {
  const Level& parts = levels_.at(level);
  return parts.size() == 1 && parts.front().kind == Kind::tensor;
}

bool PathTemplate::match(std::size_t level, std::string_view name, PathFields& fields) const {
  PathFields found = fields;
  if (!match_parts(levels_.at(level), 0, name, found)) return false;
  fields = found;
  return true;
}

bool PathTemplate::match_parts(const Level& level, std::size_t part, std::string_view rest, PathFields& fields) {
  if (part == level.size()) return rest.empty();
  const auto& [kind, text] = level[part];
  if (kind == Kind::literal) {
    return rest.substr(0, text.size()) == text && match_parts(level, part + 1, rest.substr(text.size()), fields);
  }
  if (kind == Kind::tensor) {
    return std::any_of(kTensorWords.begin(), kTensorWords.end(), [&](const TensorWord& entry) {
      if (rest.substr(0, entry.word.size()) != entry.word) return false;
      fields.tensor = entry.tensor;
      return match_parts(level, part + 1, rest.substr(entry.word.size()), fields);
    });
  }
  const std::size_t digits = count_digits(rest);
  if (digits == 0 || digits > kMostDigits) return false;
  int& value = kind == Kind::layer ? fields.layer : kind == Kind::timestep ? fields.timestep : fields.sample;
  std::from_chars(rest.data(), rest.data() + digits, value);
  return match_parts(level, part + 1, rest.substr(digits), fields);
}

}  // namespace sage2
