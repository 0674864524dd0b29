#include "reports/cells.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <unordered_set>
#include <utility>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace sage2 {
namespace {

/// Captures by content: a file that was moved or evaluated twice is one capture, two files of one name are two.
class CaptureIndex {
 public:
  std::size_t of(const Run& run, const std::string& name) {
    std::string id = "name:" + name;
    for (const auto& capture : run.info.captures) {
      if (capture.name == name && !capture.fingerprint.empty()) id = capture.fingerprint;
    }
    return ids_.try_emplace(id, ids_.size()).first->second;
  }
  [[nodiscard]] std::size_t size() const { return ids_.size(); }

 private:
  std::map<std::string, std::size_t> ids_;
};

void check_capture_names(const Run& run) {
  std::map<std::string, std::string> seen;
  for (const auto& capture : run.info.captures) {
    const auto [it, fresh] = seen.try_emplace(capture.name, capture.fingerprint);
    if (!fresh && it->second != capture.fingerprint) {
      throw DataError(
          fmt::format("{}: holds two different captures named \"{}\", whose records cannot be told apart; "
                      "rename one, or evaluate them into two runs and give both",
                      run.folder.string(), capture.name));
    }
  }
}

struct Slot {
  const Record* record = nullptr;
  const Run* run = nullptr;
};

using CellKey = std::pair<int, int>;            // layer, timestep
using SampleKey = std::pair<std::size_t, int>;  // capture, sample

struct PendingCell {
  std::map<SampleKey, std::vector<Slot>> samples;  // a slot per variant
  std::unordered_set<std::string> keys;
};

std::string describe(const Slot& slot) {
  const Record& r = *slot.record;
  return fmt::format("{}: layer {}, timestep {}, sample {} of {}", slot.run->folder.string(), r.layer, r.timestep,
                     r.sample, r.capture);
}

struct Pending {
  std::map<CellKey, PendingCell> cells;
  std::size_t captures = 0;
  std::size_t duplicates = 0;
  std::vector<std::string> devices;
};

void add_device(std::vector<std::string>& devices, const Record& r) {
  auto device = fmt::format("{} ({})", r.device, r.engine);
  if (std::find(devices.begin(), devices.end(), device) == devices.end()) devices.push_back(std::move(device));
}

Pending collect(std::span<const Run> runs, const std::vector<VariantId>& variants) {
  Pending pending;
  CaptureIndex captures;
  for (const Run& run : runs) {
    check_capture_names(run);
    std::map<std::string, std::size_t> local;
    const Record* last = nullptr;
    for (const Record& record : run.records) {
      const auto v = std::find_if(variants.begin(), variants.end(),
                                  [&](const VariantId& id) { return id.variant == record.variant; });
      if (v == variants.end()) continue;
      auto known = local.find(record.capture);
      if (known == local.end()) known = local.emplace(record.capture, captures.of(run, record.capture)).first;
      PendingCell& cell = pending.cells[{record.layer, record.timestep}];
      if (!cell.keys.insert(record.key).second) {
        ++pending.duplicates;
        continue;
      }
      auto& slots = cell.samples[{known->second, record.sample}];
      slots.resize(variants.size());
      Slot& slot = slots[static_cast<std::size_t>(v - variants.begin())];
      if (slot.record != nullptr) {
        throw DataError(
            fmt::format("{}: variant {} has two different records, the other one in {}; they come from "
                        "different heads, query rows or contents",
                        describe({&record, &run}), v->name, slot.run->folder.string()));
      }
      slot = {&record, &run};
      if (last == nullptr || record.device != last->device || record.engine != last->engine) {
        add_device(pending.devices, record);
      }
      last = &record;
    }
  }
  pending.captures = captures.size();
  return pending;
}

/// Captures that share no (cell, sample) are parts of one series, in which a sample number means one draw.
std::vector<std::size_t> series_of_captures(const Pending& pending) {
  std::vector<std::vector<std::array<int, 3>>> held(pending.captures);
  for (const auto& [cell, content] : pending.cells) {
    for (const auto& [sample, slots] : content.samples) {
      held[sample.first].push_back({cell.first, cell.second, sample.second});
    }
  }
  std::vector<std::set<std::array<int, 3>>> series;
  std::vector<std::size_t> of_capture;
  for (const auto& mine : held) {
    const auto home = std::find_if(series.begin(), series.end(), [&](const auto& taken) {
      return std::none_of(mine.begin(), mine.end(), [&](const auto& id) { return taken.contains(id); });
    });
    of_capture.push_back(static_cast<std::size_t>(home - series.begin()));
    if (home == series.end()) series.emplace_back();
    series[of_capture.back()].insert(mine.begin(), mine.end());
  }
  return of_capture;
}

void check_complete(const std::vector<Slot>& slots, const std::vector<VariantId>& variants) {
  const auto there = std::find_if(slots.begin(), slots.end(), [](const Slot& s) { return s.record != nullptr; });
  for (std::size_t v = 0; v < slots.size(); ++v) {
    if (slots[v].record != nullptr) continue;
    throw DataError(fmt::format(
        "{}: has a record of variant {} but none of {}; evaluate both on the same captures, to "
        "the end",
        describe(*there), variants[static_cast<std::size_t>(there - slots.begin())].name, variants[v].name));
  }
}

void check_alike(const Slot& a, const Slot& b) {
  const auto subset = [](const Record& r) {
    return std::pair{r.queries ? r.queries->count : 0, r.queries ? r.queries->seed : 0};
  };
  if (a.record->heads_selected != b.record->heads_selected || subset(*a.record) != subset(*b.record)) {
    throw DataError(
        fmt::format("{}: variants {} and {} were evaluated on different heads or query rows, so their "
                    "errors cannot be compared",
                    describe(b), a.record->name, b.record->name));
  }
}

void check_finite(const Slot& slot, const VariantId& variant) {
  const Record& r = *slot.record;
  const std::array<std::pair<const char*, double>, 5> metrics{{{"cos_sim", r.metrics.cos_sim},
                                                               {"rel_l1", r.metrics.rel_l1},
                                                               {"rmse", r.metrics.rmse},
                                                               {"max_abs", r.metrics.max_abs},
                                                               {"sq_err", r.sums.sq_err}}};
  for (const auto& [name, value] : metrics) {
    if (std::isfinite(value)) continue;
    throw DataError(
        fmt::format("{}: {} of variant {} is {}, expected a finite number ({} values of its output are NaN "
                    "or infinite)",
                    describe(slot), name, variant.name, value, r.nonfinite()));
  }
  if (r.nonfinite() != 0) {
    throw DataError(fmt::format("{}: {} values of the output of variant {} are NaN or infinite, expected none",
                                describe(slot), r.nonfinite(), variant.name));
  }
}

/// What all records of a layer must share, because it belongs to the model and not to the prompt.
void check_model(const Slot& slot, const Slot& first, const Slot& first_of_layer) {
  const Record& r = *slot.record;
  const Record& f = *first.record;
  const Record& l = *first_of_layer.record;
  if (r.model != f.model) {
    throw DataError(fmt::format("{}: comes from model \"{}\", but {} from \"{}\"; a map is made for one model",
                                describe(slot), r.model, describe(first), f.model));
  }
  if (r.layer_name != l.layer_name) {
    throw DataError(fmt::format("{}: the layer is named \"{}\", but in {} \"{}\"; the captures do not match",
                                describe(slot), r.layer_name, describe(first_of_layer), l.layer_name));
  }
  const auto fixed = [](const RecordShape& s) {
    return fmt::format("{} query heads, {} key/value heads, head dim {}{}", s.q_heads, s.kv_heads, s.head_dim,
                       s.is_causal ? ", causal" : "");
  };
  if (fixed(r.shape) != fixed(l.shape)) {
    throw DataError(fmt::format("{}: has {}, but {} has {}; the captures do not match", describe(slot), fixed(r.shape),
                                describe(first_of_layer), fixed(l.shape)));
  }
}

bool same_lengths(const RecordShape& a, const RecordShape& b) {
  return a.batch == b.batch && a.q_len == b.q_len && a.kv_len == b.kv_len;
}

std::string unit_name(std::size_t series, const Record& r) {
  if (r.cfg_branch && r.sample_name) return fmt::format("{}/named/{}", series, *r.sample_name);
  return fmt::format("{}/{}", series, r.sample);
}

}  // namespace

std::string to_string(const Cell& cell) {
  return fmt::format("layer {}, timestep {}", cell.layer, cell.timestep);
}

VariantId find_variant(std::span<const Run> runs, const std::string& text) {
  std::map<std::string, std::string> found;  // canonical spelling -> name
  for (const Run& run : runs) {
    for (const Record& r : run.records) {
      if (r.variant == text || r.name == text) found.try_emplace(r.variant, r.name);
    }
  }
  if (found.size() > 1) {
    throw DataError(fmt::format("the runs mean different things by variant \"{}\": {} and {}", text,
                                found.begin()->first, std::next(found.begin())->first));
  }
  if (found.empty()) {
    std::set<std::string> all;
    for (const Run& run : runs) {
      for (const Record& r : run.records) all.insert(r.name);
    }
    throw UsageError(fmt::format("no run has records of variant \"{}\"; there are: {}", text,
                                 all.empty() ? "none at all" : fmt::format("{}", fmt::join(all, ", "))));
  }
  return {found.begin()->first, found.begin()->second};
}

CellTable pool_cells(std::span<const Run> runs, const std::vector<VariantId>& variants) {
  const Pending pending = collect(runs, variants);
  const auto series = series_of_captures(pending);
  CellTable table;
  table.variants = variants;
  table.duplicates = pending.duplicates;
  table.devices = pending.devices;
  std::map<std::string, std::size_t> units;
  std::map<int, Slot> first_of_layer;
  Slot first;
  for (const auto& [id, content] : pending.cells) {
    Cell cell;
    std::tie(cell.layer, cell.timestep) = id;
    for (const auto& [sample, slots] : content.samples) {
      check_complete(slots, variants);
      const Slot& head = slots.front();
      const Record& r = *head.record;
      if (first.record == nullptr) first = head;
      check_model(head, first, first_of_layer.try_emplace(cell.layer, head).first->second);
      cell.layer_name = r.layer_name;
      cell.timestep_value = r.timestep_value;
      cell.units.push_back(units.try_emplace(unit_name(series[sample.first], r), units.size()).first->second);
      cell.shapes.push_back(r.shape);
      if (!same_lengths(r.shape, cell.shapes.front())) table.lengths_differ = true;
      for (std::size_t v = 0; v < slots.size(); ++v) {
        check_alike(head, slots[v]);
        check_finite(slots[v], variants[v]);
        const Record& x = *slots[v].record;
        cell.observations.push_back(
            {x.metrics.cos_sim, x.metrics.rel_l1, x.metrics.rmse, x.metrics.max_abs, x.sums.sq_err});
      }
    }
    table.cells.push_back(std::move(cell));
  }
  if (first.record != nullptr) table.model = first.record->model;
  table.units = units.size();
  return table;
}

CellTable select_units(const CellTable& table, const std::vector<bool>& keep) {
  CellTable part = table;
  const std::size_t variants = table.variants.size();
  std::vector<std::size_t> renumbered(table.units, 0);
  part.units = 0;
  for (std::size_t u = 0; u < table.units; ++u) {
    if (keep[u]) renumbered[u] = part.units++;
  }
  for (std::size_t c = 0; c < table.cells.size(); ++c) {
    const Cell& from = table.cells[c];
    Cell& to = part.cells[c];
    to.units.clear();
    to.shapes.clear();
    to.observations.clear();
    for (std::size_t s = 0; s < from.samples(); ++s) {
      if (!keep[from.units[s]]) continue;
      to.units.push_back(renumbered[from.units[s]]);
      to.shapes.push_back(from.shapes[s]);
      const auto first = from.observations.begin() + static_cast<std::ptrdiff_t>(s * variants);
      to.observations.insert(to.observations.end(), first, first + static_cast<std::ptrdiff_t>(variants));
    }
    if (to.units.empty()) {
      throw DataError(
          fmt::format("{} has samples of {} of the {} draws only, none of them in this part of the split; "
                      "a hold-out needs captures with the same samples in every cell",
                      to_string(from), std::set(from.units.begin(), from.units.end()).size(), table.units));
    }
  }
  return part;
}

SampleGrid evaluate(const CellTable& table, const std::function<double(const Observation&)>& value,
                    std::size_t variants) {
  SampleGrid grid{std::min(variants, table.variants.size()), {}};
  for (std::size_t c = 0; c < table.cells.size(); ++c) {
    for (std::size_t s = 0; s < table.cells[c].samples(); ++s) {
      for (std::size_t v = 0; v < grid.variants; ++v) grid.values.push_back(value(table.at(c, s, v)));
    }
  }
  return grid;
}

std::vector<double> CellGrid::column(std::size_t variant) const {
  std::vector<double> out(cells());
  for (std::size_t c = 0; c < out.size(); ++c) out[c] = at(c, variant);
  return out;
}

CellGrid mean_over_samples(const CellTable& table, const SampleGrid& values, std::span<const double> weights) {
  CellGrid grid{values.variants, {}};
  grid.values.assign(table.cells.size() * grid.variants, 0.0);
  const double* from = values.values.data();
  for (std::size_t c = 0; c < table.cells.size(); ++c) {
    const auto& units = table.cells[c].units;
    double* means = &grid.values[c * grid.variants];
    const bool drawn =
        std::any_of(units.begin(), units.end(), [&](auto u) { return !weights.empty() && weights[u] > 0; });
    double total = 0;
    for (std::size_t s = 0; s < units.size(); ++s) {
      const double weight = drawn ? weights[units[s]] : 1.0;
      total += weight;
      for (std::size_t v = 0; v < grid.variants; ++v) means[v] += weight * *from++;
    }
    for (std::size_t v = 0; v < grid.variants; ++v) means[v] /= total;
  }
  return grid;
}

}  // namespace sage2
