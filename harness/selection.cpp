#include "harness/selection.hpp"

#include <algorithm>
#include <charconv>
#include <set>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace sage2 {
namespace {

int parse_index(std::string_view text, const std::string& whole, const std::string& option) {
  int value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 0) {
    throw UsageError(fmt::format("{}: expected numbers and ranges as in 0,2,5-8, found '{}'", option, whole));
  }
  return value;
}

/// What a file offers along one axis, for the message that nothing was selected.
template <class Get>
std::string offered(const std::vector<CellId>& cells, const Get& get) {
  std::set<int> values;
  for (const auto& id : cells) values.insert(get(id));
  return values.size() > 12 ? fmt::format("{}-{}", *values.begin(), *values.rbegin())
                            : fmt::format("{}", fmt::join(values, ","));
}

}  // namespace

IndexList::IndexList(const std::string& text, const std::string& option) {
  for (std::string_view rest = text; !rest.empty();) {
    const auto comma = rest.find(',');
    const auto item = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
    const auto dash = item.find('-');
    const int first = parse_index(item.substr(0, dash), text, option);
    const int last = dash == std::string_view::npos ? first : parse_index(item.substr(dash + 1), text, option);
    if (last < first) throw UsageError(fmt::format("{}: the range '{}' runs backwards", option, item));
    ranges_.push_back({first, last});
  }
  std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) { return a.first < b.first; });
  std::vector<Range> merged;
  for (const auto& r : ranges_) {
    if (!merged.empty() && r.first <= merged.back().last + 1) {
      merged.back().last = std::max(merged.back().last, r.last);
    } else {
      merged.push_back(r);
    }
  }
  ranges_ = std::move(merged);
}

bool IndexList::contains(int index) const {
  if (all()) return true;
  return std::any_of(ranges_.begin(), ranges_.end(),
                     [&](const Range& r) { return r.first <= index && index <= r.last; });
}

std::string IndexList::to_string() const {
  std::string out;
  for (const auto& r : ranges_) {
    if (!out.empty()) out += ',';
    out += r.first == r.last ? fmt::format("{}", r.first) : fmt::format("{}-{}", r.first, r.last);
  }
  return out;
}

std::vector<CellId> select_cells(const CaptureReader& reader, const Selection& selection) {
  std::vector<CellId> chosen;
  for (const auto& id : reader.cells()) {
    if (selection.layers.contains(id.layer) && selection.timesteps.contains(id.timestep) &&
        selection.samples.contains(id.sample)) {
      chosen.push_back(id);
    }
  }
  if (chosen.empty()) {
    const auto& cells = reader.cells();
    throw UsageError(fmt::format("{}: nothing is selected: the file holds layers {}, timesteps {}, samples {}",
                                 reader.file().string(), offered(cells, [](const CellId& c) { return c.layer; }),
                                 offered(cells, [](const CellId& c) { return c.timestep; }),
                                 offered(cells, [](const CellId& c) { return c.sample; })));
  }
  return chosen;
}

std::vector<std::size_t> select_heads(const CaptureReader& reader, const CellInfo& cell, const IndexList& heads) {
  std::vector<std::size_t> chosen;
  for (std::size_t h = 0; h < cell.shape.q_heads; ++h) {
    if (heads.contains(static_cast<int>(h))) chosen.push_back(h);
  }
  if (chosen.empty()) {
    throw DataError(fmt::format("{}: none of the heads {} exists: there are {}", cell_name(reader, cell.id),
                                heads.to_string(), cell.shape.q_heads));
  }
  return chosen;
}

std::string cell_name(const CaptureReader& reader, const CellId& id) {
  return fmt::format("{}: layer {}, timestep {}, sample {}", reader.file().string(), id.layer, id.timestep, id.sample);
}

}  // namespace sage2
