#include "reports/score.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace sage2 {
namespace {

/// Sorts values and returns how many pairs were out of order, by merging.
std::uint64_t sort_counting_swaps(std::vector<double>& values) {
  std::vector<double> buffer(values.size());
  std::uint64_t swaps = 0;
  for (std::size_t width = 1; width < values.size(); width *= 2) {
    for (std::size_t begin = 0; begin < values.size(); begin += 2 * width) {
      const std::size_t middle = std::min(begin + width, values.size());
      const std::size_t end = std::min(begin + 2 * width, values.size());
      std::size_t left = begin;
      std::size_t right = middle;
      for (std::size_t out = begin; out < end; ++out) {
        if (left < middle && (right == end || values[left] <= values[right])) {
          buffer[out] = values[left++];
        } else {
          swaps += middle - left;
          buffer[out] = values[right++];
        }
      }
    }
    values.swap(buffer);
  }
  return swaps;
}

/// Pairs inside runs of equal neighbours.
template <class Equal>
std::uint64_t tied_pairs(std::size_t n, const Equal& equal_to_previous) {
  std::uint64_t pairs = 0;
  std::uint64_t run = 0;
  for (std::size_t i = 1; i < n; ++i) {
    run = equal_to_previous(i) ? run + 1 : 0;
    pairs += run;
  }
  return pairs;
}

}  // namespace

double paper_score(const Observation& o) {
  return o.cos_sim * (1.0 - o.rel_l1);
}

const std::vector<std::string>& metric_names() {
  static const std::vector<std::string> names{"rel_l1", "rmse", "1-cos_sim", "1-score", "sq_err", "max_abs"};
  return names;
}

const char* to_string(Metric metric) {
  return metric_names()[static_cast<std::size_t>(metric)].c_str();
}

Metric parse_metric(const std::string& text) {
  const auto& names = metric_names();
  const auto it = std::find(names.begin(), names.end(), text == "cos_sim" ? "1-cos_sim" : text);
  if (it == names.end()) {
    throw UsageError(fmt::format("unknown metric \"{}\", expected one of {}", text, fmt::join(names, ", ")));
  }
  return static_cast<Metric>(it - names.begin());
}

double error_of(const Observation& o, Metric metric) {
  switch (metric) {
    case Metric::rel_l1:
      return o.rel_l1;
    case Metric::rmse:
      return o.rmse;
    case Metric::cos_distance:
      return 1.0 - o.cos_sim;
    case Metric::score_distance:
      return 1.0 - paper_score(o);
    case Metric::sq_err:
      return o.sq_err;
    case Metric::max_abs:
      return o.max_abs;
  }
  throw UsageError("unknown metric");
}

std::vector<std::size_t> ascending(std::span<const double> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t i, std::size_t j) { return values[i] != values[j] ? values[i] < values[j] : i < j; });
  return order;
}

double kendall_tau(std::span<const double> a, std::span<const double> b) {
  const std::size_t n = a.size();
  std::vector<std::pair<double, double>> pairs(n);
  for (std::size_t i = 0; i < n; ++i) pairs[i] = {a[i], b[i]};
  std::sort(pairs.begin(), pairs.end());
  const auto tied_a = tied_pairs(n, [&](std::size_t i) { return pairs[i].first == pairs[i - 1].first; });
  const auto tied_both = tied_pairs(n, [&](std::size_t i) { return pairs[i] == pairs[i - 1]; });
  std::vector<double> second(n);
  for (std::size_t i = 0; i < n; ++i) second[i] = pairs[i].second;
  const auto discordant = sort_counting_swaps(second);
  const auto tied_b = tied_pairs(n, [&](std::size_t i) { return second[i] == second[i - 1]; });
  const double all = 0.5 * static_cast<double>(n) * (static_cast<double>(n) - 1.0);
  const double untied_a = all - static_cast<double>(tied_a);
  const double untied_b = all - static_cast<double>(tied_b);
  if (untied_a <= 0 || untied_b <= 0) return 0.0;
  // all = concordant + discordant + tied in a + tied in b - tied in both
  const double difference =
      untied_a - static_cast<double>(tied_b) + static_cast<double>(tied_both) - 2.0 * static_cast<double>(discordant);
  return difference / (std::sqrt(untied_a) * std::sqrt(untied_b));
}

}  // namespace sage2
