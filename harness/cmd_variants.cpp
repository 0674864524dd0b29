#include <cstdio>
#include <memory>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "harness/command.hpp"
#include "nlohmann/json.hpp"
#include "reference/variant.hpp"
#include "reports/table.hpp"

namespace sage2 {
namespace {

struct VariantsOptions {
  std::vector<std::string> spell;
  bool json = false;
};

using nlohmann::json;

json listing() {
  json j;
  for (const auto& p : presets()) {
    j["presets"].push_back({{"name", p.name}, {"meaning", p.meaning}, {"canonical", canonical(p.variant)}});
  }
  for (const auto& k : variant_keys()) {
    j["keys"].push_back({{"name", k.name}, {"values", k.values}, {"meaning", k.meaning}});
  }
  for (const auto& s : suites()) {
    json rows = json::array();
    for (const auto& r : s.rows) rows.push_back({{"label", r.label}, {"variant", canonical(r.variant)}});
    j["suites"].push_back({{"name", s.name}, {"title", s.title}, {"rows", rows}});
  }
  return j;
}

/// Breaks a list of words at `width`.
std::vector<std::string> wrapped(const std::vector<std::string>& words, std::size_t width) {
  std::vector<std::string> lines{""};
  for (const auto& word : words) {
    if (!lines.back().empty() && lines.back().size() + 1 + word.size() > width) lines.emplace_back();
    lines.back() += (lines.back().empty() ? "" : " ") + word;
  }
  return lines;
}

void print_listing() {
  Table preset_table{
      "A variant is PRESET or PRESET:KEY=VALUE,... or PRESET@ARCH:...\n", {{"preset"}, {"meaning"}}, {}, {}};
  for (const auto& p : presets()) preset_table.rows.push_back({p.name, p.meaning});
  fmt::print("{}\n", to_text(preset_table));
  Table keys{"", {{"key"}, {"values"}, {"meaning"}}, {}, {}};
  for (const auto& k : variant_keys()) {
    const auto values = wrapped(k.values, 24);
    const auto meaning = wrapped({k.meaning}, 44);
    for (std::size_t i = 0; i < std::max(values.size(), meaning.size()); ++i) {
      keys.rows.push_back(
          {i == 0 ? k.name : "", i < values.size() ? values[i] : "", i < meaning.size() ? meaning[i] : ""});
    }
  }
  fmt::print("{}\n", to_text(keys));
  Table suite_table{"", {{"suite"}, {"row"}, {"variant"}}, {}, {}};
  for (const auto& s : suites()) {
    if (s.name == "presets") continue;  // its rows are the first table
    for (std::size_t i = 0; i < s.rows.size(); ++i) {
      suite_table.rows.push_back({i == 0 ? s.name : "", s.rows[i].label, canonical(s.rows[i].variant)});
    }
  }
  suite_table.notes = {"", "Other suites: presets (all of the first table), stages:VARIANT, all."};
  fmt::print("{}", to_text(suite_table));
}

int run_variants(const VariantsOptions& options) {
  json spelled = json::array();
  for (const auto& text : options.spell) {
    const auto variant = canonical(parse_variant(text));
    spelled.push_back({{"given", text}, {"canonical", variant}});
    if (!options.json) fmt::print("{}\n", variant);
  }
  if (options.json) {
    fmt::print("{}\n", (options.spell.empty() ? listing() : spelled).dump(1));
  } else if (options.spell.empty()) {
    print_listing();
  }
  return 0;
}

}  // namespace

void setup_variants(CLI::App& app, Action& action) {
  auto options = std::make_shared<VariantsOptions>();
  auto* sub = app.add_subcommand("variants", "List presets, keys, values and suites; or check and spell variants");
  sub->add_option("VARIANT", options->spell, "Print the canonical spelling of these instead");
  sub->add_flag("--json", options->json, "Print as JSON");
  sub->callback([options, &action] { action = [options] { return run_variants(*options); }; });
}

}  // namespace sage2
