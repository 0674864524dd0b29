#include "reference/variant.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <limits>
#include <optional>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "reference/variant_rules.hpp"

namespace sage2 {
namespace {

template <class E>
using Names = std::vector<std::pair<const char*, E>>;

const Names<Format> kQkFormats{{"int2", Format::int2}, {"int3", Format::int3},  {"int4", Format::int4},
                               {"int5", Format::int5}, {"int6", Format::int6},  {"int7", Format::int7},
                               {"int8", Format::int8}, {"e4m3", Format::e4m3},  {"fp16", Format::fp16},
                               {"bf16", Format::bf16}, {"exact", Format::exact}};
const Names<Format> kPvFormats{{"e4m3", Format::e4m3}, {"e5m2", Format::e5m2}, {"int8", Format::int8},
                               {"fp16", Format::fp16}, {"bf16", Format::bf16}, {"exact", Format::exact}};
const Names<QkGran> kQkGrans{{"per_tensor", QkGran::per_tensor},
                             {"per_block", QkGran::per_block},
                             {"per_warp", QkGran::per_warp},
                             {"per_thread", QkGran::per_thread},
                             {"per_token", QkGran::per_token}};
const Names<QkAccum> kQkAccums{{"exact", QkAccum::exact}, {"fp32", QkAccum::fp32}};
const Names<bool> kSwitch{{"on", true}, {"off", false}};
const Names<Transform> kTransforms{
    {"none", Transform::none}, {"hadamard", Transform::hadamard}, {"smoothattn", Transform::smoothattn}};
const Names<VGran> kVGrans{
    {"per_channel", VGran::per_channel}, {"per_tensor", VGran::per_tensor}, {"per_block", VGran::per_block}};
const Names<VOutliers> kVOutliers{
    {"none", VOutliers::none}, {"clip", VOutliers::clip}, {"median", VOutliers::median}, {"split", VOutliers::split}};
const Names<PvAccum> kPvAccums{{"exact", PvAccum::exact},
                               {"fp32", PvAccum::fp32},
                               {"fp32+fp32", PvAccum::fp32_fp32},
                               {"fp32+fp16", PvAccum::fp32_fp16},
                               {"fp16", PvAccum::fp16}};
const Names<Arch> kArchs{
    {"ampere", Arch::ampere}, {"ada", Arch::ada}, {"hopper", Arch::hopper}, {"blackwell", Arch::blackwell}};
const Names<OutFormat> kOutFormats{{"exact", OutFormat::exact}, {"fp16", OutFormat::fp16}, {"bf16", OutFormat::bf16}};

template <class E>
const char* name_of(const Names<E>& names, E value) {
  return std::find_if(names.begin(), names.end(), [&](const auto& n) { return n.second == value; })->first;
}

template <class E>
std::optional<E> value_of(const Names<E>& names, std::string_view text) {
  const auto it = std::find_if(names.begin(), names.end(), [&](const auto& n) { return n.first == text; });
  if (it == names.end()) return std::nullopt;
  return it->second;
}

/// One key: how to print it, how to set it (false: no such value), which values there are.
struct Key {
  KeyHelp help;
  std::function<std::string(const Variant&)> get;
  std::function<bool(Variant&, std::string_view)> set;
};

template <class E>
Key make_key(const char* name, const Names<E>& names, E Variant::*field, const char* meaning) {
  Key key;
  key.help = {name, {}, meaning};
  for (const auto& n : names) key.help.values.emplace_back(n.first);
  key.get = [&names, field](const Variant& v) { return std::string(name_of(names, v.*field)); };
  key.set = [&names, field](Variant& v, std::string_view text) {
    const auto value = value_of(names, text);
    if (value) v.*field = *value;
    return value.has_value();
  };
  return key;
}

std::optional<Geometry> parse_geometry(std::string_view text) {
  std::array<unsigned, 3> parts{};
  const std::array<char, 3> ends{'x', 'w', '\0'};
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  for (std::size_t i = 0; i < 3; ++i) {
    const auto [next, error] = std::from_chars(at, end, parts[i]);
    if (error != std::errc{} || next == at || parts[i] > 1024) return std::nullopt;
    at = next;
    if (i < 2 && (at == end || *at++ != ends[i])) return std::nullopt;
  }
  if (at != end) return std::nullopt;
  return Geometry{static_cast<std::uint16_t>(parts[0]), static_cast<std::uint16_t>(parts[1]),
                  static_cast<std::uint16_t>(parts[2])};
}

/// Keys in the order in which the canonical spelling lists them.
const std::vector<Key>& keys() {
  static const std::vector<Key> all = [] {
    std::vector<Key> k;
    Key qk = make_key("qk", kQkFormats, &Variant::q, "format of Q and K");
    qk.set = [](Variant& v, std::string_view text) {
      const auto value = value_of(kQkFormats, text);
      if (value) v.q = v.k = *value;
      return value.has_value();
    };
    k.push_back(std::move(qk));
    k.push_back(make_key("q", kQkFormats, &Variant::q, "format of Q alone, where it differs from K's"));
    k.push_back(make_key("k", kQkFormats, &Variant::k, "format of K alone"));
    k.push_back(make_key("qk_gran", kQkGrans, &Variant::qk_gran, "which rows of Q and of K share a scale"));
    k.push_back(make_key("qk_accum", kQkAccums, &Variant::qk_accum, "accumulation of QK (integers are exact)"));
    k.push_back(make_key("smooth_q", kSwitch, &Variant::smooth_q, "subtract the mean of each 128 query rows"));
    k.push_back(make_key("smooth_k", kSwitch, &Variant::smooth_k, "subtract the mean of K over the tokens"));
    k.push_back(make_key("smooth_v", kSwitch, &Variant::smooth_v, "subtract the mean of V, add it to the output"));
    k.push_back(make_key("transform", kTransforms, &Variant::transform, "rival preprocessing of Q and K"));
    k.push_back(make_key("p", kPvFormats, &Variant::p, "format of P"));
    k.push_back(make_key("v", kPvFormats, &Variant::v, "format of V"));
    k.push_back(make_key("v_gran", kVGrans, &Variant::v_gran, "scale groups of V"));
    k.push_back(make_key("v_outliers", kVOutliers, &Variant::v_outliers, "alternatives to smoothing V"));
    k.push_back(make_key("pv_accum", kPvAccums, &Variant::pv_accum, "accumulation of PV"));
    k.push_back(make_key("arch", kArchs, &Variant::arch, "whose tensor cores"));
    Key geometry;
    geometry.help = {"geometry", {"128x64w32", "64x128w16", "QxKwW"}, "query tile x key tile, query rows per warp"};
    geometry.get = [](const Variant& v) {
      return fmt::format("{}x{}w{}", v.geometry.q_tile, v.geometry.k_tile, v.geometry.warp_q);
    };
    geometry.set = [](Variant& v, std::string_view text) {
      const auto value = parse_geometry(text);
      if (value) v.geometry = *value;
      return value.has_value();
    };
    k.push_back(std::move(geometry));
    k.push_back(make_key("o", kOutFormats, &Variant::o, "format in which the output is stored"));
    return k;
  }();
  return all;
}

const Key* find_key(std::string_view name) {
  const auto it = std::find_if(keys().begin(), keys().end(), [&](const Key& k) { return k.help.name == name; });
  return it == keys().end() ? nullptr : &*it;
}

/// Settings in which two variants differ, as key=value of the first.
std::vector<std::string> differences(const Variant& variant, const Variant& base) {
  std::vector<std::string> out;
  const bool both = variant.q == variant.k;
  for (const auto& key : keys()) {
    const auto& name = key.help.name;
    if (name == "qk" && (!both || (base.q == variant.q && base.k == variant.k))) continue;
    if ((name == "q" || name == "k") && both) continue;
    const auto text = key.get(variant);
    if (name == "qk" || text != key.get(base)) out.push_back(fmt::format("{}={}", name, text));
  }
  return out;
}

[[noreturn]] void refuse(std::string_view text, const std::string& why) {
  throw UsageError(fmt::format("variant '{}': {}", text, why));
}

Variant parse_head(std::string_view text, std::string_view head) {
  const auto at = head.find('@');
  const auto name = head.substr(0, at);
  const auto it = std::find_if(presets().begin(), presets().end(), [&](const Preset& p) { return p.name == name; });
  if (it == presets().end()) {
    std::vector<std::string> names;
    for (const auto& p : presets()) names.push_back(p.name);
    refuse(text, fmt::format("no preset '{}' (there are {})", name, fmt::join(names, ", ")));
  }
  if (at == std::string_view::npos) return it->variant;
  const auto arch = value_of(kArchs, head.substr(at + 1));
  if (!arch) refuse(text, fmt::format("no architecture '{}' (ampere, ada, hopper, blackwell)", head.substr(at + 1)));
  return on_arch(it->variant, *arch);
}

}  // namespace

Variant parse_variant(std::string_view text) {
  const auto colon = text.find(':');
  Variant variant = parse_head(text, text.substr(0, colon));
  std::vector<const Key*> given;
  auto rest = colon == std::string_view::npos ? std::string_view{} : text.substr(colon + 1);
  if (colon != std::string_view::npos && rest.empty()) refuse(text, "nothing follows the colon");
  while (!rest.empty()) {
    const auto comma = rest.find(',');
    const auto setting = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
    if (comma != std::string_view::npos && rest.empty()) refuse(text, "nothing follows the last comma");
    const auto equals = setting.find('=');
    if (equals == std::string_view::npos) refuse(text, fmt::format("expected key=value, found '{}'", setting));
    const auto* key = find_key(setting.substr(0, equals));
    if (key == nullptr) {
      std::vector<std::string> names;
      for (const auto& k : keys()) names.push_back(k.help.name);
      refuse(text, fmt::format("no key '{}' (there are {})", setting.substr(0, equals), fmt::join(names, ", ")));
    }
    if (std::find(given.begin(), given.end(), key) != given.end()) {
      refuse(text, fmt::format("'{}' is given twice", key->help.name));
    }
    const auto value = setting.substr(equals + 1);
    if (!key->set(variant, value)) {
      refuse(text, fmt::format("'{}' cannot be '{}' ({})", key->help.name, value, fmt::join(key->help.values, ", ")));
    }
    given.push_back(key);
  }
  const Variant plain = normalised(variant);
  for (const auto* key : given) {
    if (key->get(plain) != key->get(variant)) {
      refuse(text, fmt::format("{}={} means nothing here: {}", key->help.name, key->get(variant),
                               why_fixed(plain, key->help.name)));
    }
  }
  if (const auto why = contradiction(plain)) refuse(text, *why);
  return plain;
}

std::vector<std::string> split_variants(std::string_view list) {
  std::vector<std::string> out;
  for (std::size_t at = 0; at <= list.size();) {
    const auto comma = std::min(list.find(',', at), list.size());
    const auto piece = list.substr(at, comma - at);
    at = comma + 1;
    const auto equals = piece.find('=');
    const bool setting = equals != std::string_view::npos && piece.find(':') > equals;
    if (setting && !out.empty()) {
      out.back() += fmt::format(",{}", piece);
    } else {
      out.emplace_back(piece);
    }
  }
  return out;
}

std::string canonical(const Variant& variant) {
  std::string best;
  std::size_t fewest = std::numeric_limits<std::size_t>::max();
  const auto consider = [&](const std::string& head, const Variant& base) {
    const auto settings = differences(variant, base);
    if (settings.size() >= fewest) return;
    fewest = settings.size();
    best = settings.empty() ? head : fmt::format("{}:{}", head, fmt::join(settings, ","));
  };
  for (const auto& p : presets()) consider(p.name, p.variant);
  for (const auto& p : presets()) {
    for (const auto& [name, arch] : kArchs) {
      // Parsing starts from this very value, so it must not be normalised before the settings are compared.
      const auto base = on_arch(p.variant, arch);
      if (!contradiction(normalised(base))) consider(fmt::format("{}@{}", p.name, name), base);
    }
  }
  return best;
}

const std::vector<KeyHelp>& variant_keys() {
  static const std::vector<KeyHelp> help = [] {
    std::vector<KeyHelp> all;
    for (const auto& key : keys()) all.push_back(key.help);
    return all;
  }();
  return help;
}

}  // namespace sage2
