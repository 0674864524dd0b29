#include "reports/model_cells.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include "fmt/format.h"

namespace sage2 {
namespace {

/// Standard error of the mean of independent estimates; absent as soon as one of them has none.
std::optional<double> pooled_error(const std::vector<SampleCell>& samples,
                                   std::optional<double> ErrorMetrics::*member) {
  double sum = 0;
  for (const auto& s : samples) {
    const auto& value = s.metrics.*member;
    if (!value) return std::nullopt;
    sum += *value * *value;
  }
  return std::sqrt(sum) / static_cast<double>(samples.size());
}

double larger(double a, double b) {
  return std::isnan(a) || a > b ? a : b;
}

void pool_samples(CellStats& cell) {
  std::sort(cell.samples.begin(), cell.samples.end(), [](const SampleCell& a, const SampleCell& b) {
    return std::tie(a.capture, a.sample) < std::tie(b.capture, b.sample);
  });
  ErrorMetrics weighted;
  for (const auto& s : cell.samples) {
    add(cell.sums, s.sums);
    add(cell.counts, s.counts);
    cell.seconds += s.seconds;
    weighted.max_abs = larger(s.metrics.max_abs, weighted.max_abs);
    weighted.p50 += s.metrics.p50 * s.sums.count;
    weighted.p90 += s.metrics.p90 * s.sums.count;
    weighted.p99 += s.metrics.p99 * s.sums.count;
    weighted.p999 += s.metrics.p999 * s.sums.count;
  }
  auto& m = cell.metrics = ratios(cell.sums);
  m.max_abs = weighted.max_abs;
  if (cell.sums.count > 0) {
    m.p50 = weighted.p50 / cell.sums.count;
    m.p90 = weighted.p90 / cell.sums.count;
    m.p99 = weighted.p99 / cell.sums.count;
    m.p999 = weighted.p999 / cell.sums.count;
  }
  m.cos_sim_se = pooled_error(cell.samples, &ErrorMetrics::cos_sim_se);
  m.rel_l1_se = pooled_error(cell.samples, &ErrorMetrics::rel_l1_se);
  m.rmse_se = pooled_error(cell.samples, &ErrorMetrics::rmse_se);
}

void pool_heads(CellStats& cell) {
  std::vector<std::size_t> parts;
  for (const auto& s : cell.samples) {
    for (const auto& h : s.heads) {
      auto at = std::lower_bound(cell.heads.begin(), cell.heads.end(), h.head,
                                 [](const HeadCell& c, int head) { return c.head < head; });
      const auto index = at - cell.heads.begin();
      if (at == cell.heads.end() || at->head != h.head) {
        at = cell.heads.insert(at, {h.head, {}});
        parts.insert(parts.begin() + index, 0);
      }
      ++parts[static_cast<std::size_t>(index)];
      auto& m = at->metrics;
      m.cos_sim += h.metrics.cos_sim;
      m.rel_l1 += h.metrics.rel_l1;
      m.rmse += h.metrics.rmse * h.metrics.rmse;
      m.max_abs = larger(h.metrics.max_abs, m.max_abs);
      m.p50 += h.metrics.p50;
      m.p90 += h.metrics.p90;
      m.p99 += h.metrics.p99;
      m.p999 += h.metrics.p999;
    }
  }
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto n = static_cast<double>(parts[i]);
    auto& m = cell.heads[i].metrics;
    m.cos_sim /= n;
    m.rel_l1 /= n;
    m.rmse = std::sqrt(m.rmse / n);
    for (double* p : {&m.p50, &m.p90, &m.p99, &m.p999}) *p /= n;
  }
}

}  // namespace

const VariantCells* ModelCells::find(const std::string& variant) const {
  const auto at = std::lower_bound(variants.begin(), variants.end(), variant,
                                   [](const VariantCells& v, const std::string& name) { return v.variant < name; });
  return at != variants.end() && at->variant == variant ? &*at : nullptr;
}

void CellCollector::add(Record&& r) {
  ++records_;
  auto& model = models_[r.model.empty() ? "capture " + r.capture : "model " + r.model];
  model.model = r.model;
  if (std::find(model.captures.begin(), model.captures.end(), r.capture) == model.captures.end()) {
    model.captures.push_back(r.capture);
  }
  auto& variant = model.variants[r.variant];
  if (variant.name.empty() || r.name < variant.name) variant.name = r.name;
  auto& cell = variant.cells[{r.layer, r.timestep}];
  SampleCell sample{std::move(r.capture), r.sample, std::move(r.key), r.sums, r.metrics, r.counts, r.seconds,
                    std::move(r.heads)};
  for (auto& other : cell.samples) {
    if (other.sample != sample.sample || other.capture != sample.capture) continue;
    ++duplicates_;
    if (sample.key != other.key && std::tie(sample.sums.count, sample.key) > std::tie(other.sums.count, other.key)) {
      other = std::move(sample);
    }
    return;
  }
  if (cell.samples.empty()) {
    cell.layer = r.layer;
    cell.timestep = r.timestep;
    cell.layer_name = std::move(r.layer_name);
    cell.timestep_value = r.timestep_value;
    cell.shape = r.shape;
  }
  cell.samples.push_back(std::move(sample));
}

std::vector<ModelCells> CellCollector::finish() {
  std::vector<ModelCells> result;
  std::set<std::string> slugs;
  for (auto& [key, part] : models_) {
    ModelCells model;
    model.model = part.model;
    model.captures = std::move(part.captures);
    std::sort(model.captures.begin(), model.captures.end());
    model.title = model.model.empty() ? model.captures.front() : model.model;
    const std::string base = slug_of(
        model.captures.size() == 1 ? std::filesystem::path(model.captures.front()).stem().string() : model.title);
    model.slug = base;
    for (int i = 2; !slugs.insert(model.slug).second; ++i) model.slug = fmt::format("{}-{}", base, i);
    for (auto& [variant, gathered] : part.variants) {
      VariantCells cells{variant, gathered.name, {}};
      for (auto& [id, cell] : gathered.cells) {
        pool_samples(cell);
        pool_heads(cell);
        for (auto& s : cell.samples) s.heads.shrink_to_fit();
        cells.cells.push_back(std::move(cell));
      }
      model.variants.push_back(std::move(cells));
    }
    result.push_back(std::move(model));
  }
  models_.clear();
  return result;
}

std::vector<ModelCells> collect_cells(const std::vector<Record>& records) {
  CellCollector collector;
  for (const auto& r : records) collector.add(Record(r));
  return collector.finish();
}

std::string long_name(const CellStats& cell, bool one_step) {
  std::string text = fmt::format("layer {}", cell.layer);
  if (!cell.layer_name.empty()) text += fmt::format(" ({})", cell.layer_name);
  if (!one_step) text += fmt::format(", timestep {}", cell.timestep);
  return text;
}

std::string short_name(const CellStats& cell, bool one_step) {
  return one_step ? fmt::format("L{}", cell.layer) : fmt::format("L{} T{}", cell.layer, cell.timestep);
}

bool has_one_step(const ModelCells& model) {
  std::optional<int> step;
  for (const auto& v : model.variants) {
    for (const auto& c : v.cells) {
      if (step && *step != c.timestep) return false;
      step = c.timestep;
    }
  }
  return true;
}

std::string slug_of(const std::string& text) {
  std::string slug;
  for (const char c : text) {
    const bool upper = c >= 'A' && c <= 'Z';
    const bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (upper || plain) {
      slug += upper ? static_cast<char>(c - 'A' + 'a') : c;
    } else if (!slug.empty() && slug.back() != '-') {
      slug += '-';
    }
  }
  if (!slug.empty() && slug.back() == '-') slug.pop_back();
  return slug.empty() ? "unnamed" : slug;
}

double quantile(const std::vector<double>& sorted, double q) {
  if (sorted.empty()) return std::numeric_limits<double>::quiet_NaN();
  const double position = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const auto above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (position - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace sage2
