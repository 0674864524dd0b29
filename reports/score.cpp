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

double pairs(std::size_t n) {
  return 0.5 * static_cast<double>(n) * (static_cast<double>(n) - 1.0);
}

/// Ends of the runs of equal neighbours, the last one at n.
template <class Equal>
std::vector<std::size_t> run_ends(std::size_t n, const Equal& equal_to_previous) {
  std::vector<std::size_t> ends;
  for (std::size_t i = 1; i < n; ++i) {
    if (!equal_to_previous(i)) ends.push_back(i);
  }
  if (n > 0) ends.push_back(n);
  return ends;
}

/// Pairs inside the runs.
double tied_pairs(const std::vector<std::size_t>& ends) {
  double sum = 0;
  std::size_t begin = 0;
  for (const auto end : ends) {
    sum += pairs(end - begin);
    begin = end;
  }
  return sum;
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

KendallTau::KendallTau(std::span<const double> reference)
    : order_(ascending(reference)), ties_(run_ends(reference.size(), [&](std::size_t i) {
        return reference[order_[i]] == reference[order_[i - 1]];
      })) {}

double KendallTau::with(std::span<const double> other) const {
  const std::size_t n = order_.size();
  std::vector<double> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = other[order_[i]];
  const auto equal = [&](std::size_t i) { return values[i] == values[i - 1]; };
  // Among equals of the reference no order is wrong; pairs that are equal in both are counted on the way.
  double tied_both = 0;
  std::size_t begin = 0;
  for (const auto end : ties_) {
    if (end - begin > 1) {
      std::sort(values.begin() + static_cast<std::ptrdiff_t>(begin), values.begin() + static_cast<std::ptrdiff_t>(end));
      tied_both += tied_pairs(run_ends(end - begin, [&](std::size_t i) { return equal(begin + i); }));
    }
    begin = end;
  }
  const auto discordant = static_cast<double>(sort_counting_swaps(values));
  const double untied_reference = pairs(n) - tied_pairs(ties_);
  const double tied_other = tied_pairs(run_ends(n, equal));
  const double untied_other = pairs(n) - tied_other;
  if (untied_reference <= 0 || untied_other <= 0) return 0.0;
  // all pairs = concordant + discordant + tied in the reference + tied in the other - tied in both
  const double difference = untied_reference - tied_other + tied_both - 2.0 * discordant;
  return difference / (std::sqrt(untied_reference) * std::sqrt(untied_other));
}

}  // namespace sage2
