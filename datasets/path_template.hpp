#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// Path of the datasets inside a capture, with place holders: "/layers/{layer}/{timestep}/{sample}/{tensor}".
namespace sage2 {

/// What the place holders of a path stood for.
struct PathFields {
  int layer = 0;
  int timestep = 0;
  int sample = 0;
  std::optional<std::size_t> tensor;  ///< 0 q, 1 k, 2 v, 3 the model's own output
};

class PathTemplate {
 public:
  /// {layer}, {timestep} and {sample} stand for decimal numbers, {tensor} for q, k, v and o, also written Q, query,
  /// out and so on. {tensor} is needed, the others may be left out. Throws UsageError where the text is malformed.
  explicit PathTemplate(std::string_view text);

  [[nodiscard]] const std::string& text() const { return text_; }
  /// Number of names between the slashes.
  [[nodiscard]] std::size_t depth() const { return levels_.size(); }
  /// The name at this level if it holds no place holder.
  [[nodiscard]] std::optional<std::string> literal(std::size_t level) const;
  /// True if the level is {tensor} alone, so that the group above it is one cell.
  [[nodiscard]] bool is_tensor(std::size_t level) const;
  /// True if `name` fits the level; then what its place holders stand for is put into `fields`.
  [[nodiscard]] bool match(std::size_t level, std::string_view name, PathFields& fields) const;

 private:
  enum class Kind { literal, layer, timestep, sample, tensor };
  struct Part {
    Kind kind = Kind::literal;
    std::string text;
  };
  using Level = std::vector<Part>;
  static bool match_parts(const Level& level, std::size_t part, std::string_view rest, PathFields& fields);
  [[nodiscard]] Level parse_level(std::string_view name) const;
  void check() const;

  std::string text_;
  std::vector<Level> levels_;
};

}  // namespace sage2
