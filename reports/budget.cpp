#include "reports/budget.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <tuple>

#include "datasets/error.hpp"

namespace sage2 {
namespace {

/// Bounds are doubles made from exact integer sums below 2^53; their rounding stays below this many ticks.
constexpr double kMargin = 16;
constexpr double kLimitTolerance = 1e-9;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Minimise the summed value under the summed weight. Both are ticks, each item's least is 0.
struct Choice {
  std::int64_t weight = 0;
  std::int64_t value = 0;
  std::uint32_t option = 0;  ///< index into the caller's options
};

/// Undominated choices of one item: weights ascend, values descend.
using Item = std::vector<Choice>;

struct Problem {
  std::vector<Item> items;
  std::int64_t capacity = 0;
  std::int64_t value_step = 1;  ///< every summed value is a multiple of it
  double weight_tick = 1, value_tick = 1;
  double least_weight = 0, least_value = 0;  ///< sums of what was subtracted
};

using Member = double BudgetOption::*;

/// Power of two, so that costs that are short binary fractions stay exact. `range` is the largest possible sum.
double tick_of(double range) {
  return range > 0 ? std::exp2(std::ceil(std::log2(range)) - 52) : 1.0;
}

double least(const std::vector<BudgetOption>& options, Member member) {
  double value = kInfinity;
  for (const auto& o : options) value = std::min(value, o.*member);
  return value;
}

double summed_range(const BudgetItems& items, Member member) {
  double sum = 0;
  for (const auto& options : items) {
    double most = -kInfinity;
    for (const auto& o : options) most = std::max(most, o.*member);
    sum += most - least(options, member);
  }
  return sum;
}

void drop_dominated(Item& item) {
  std::sort(item.begin(), item.end(), [](const Choice& a, const Choice& b) {
    return std::tie(a.weight, a.value, a.option) < std::tie(b.weight, b.value, b.option);
  });
  std::size_t kept = 0;
  for (const Choice& c : item) {
    if (kept == 0 || c.value < item[kept - 1].value) item[kept++] = c;
  }
  item.resize(kept);
}

std::optional<Problem> in_ticks(const BudgetItems& items, Member weight, Member value, double limit) {
  Problem p;
  p.weight_tick = tick_of(summed_range(items, weight));
  p.value_tick = tick_of(summed_range(items, value));
  std::int64_t weight_gcd = 0;
  std::int64_t value_gcd = 0;
  std::int64_t most = 0;
  for (const auto& options : items) {
    const double w0 = least(options, weight);
    const double v0 = least(options, value);
    if (!std::isfinite(w0) || !std::isfinite(v0)) throw UsageError("a budget needs finite costs and errors");
    p.least_weight += w0;
    p.least_value += v0;
    Item item;
    for (std::uint32_t i = 0; i < options.size(); ++i) {
      item.push_back({std::llround((options[i].*weight - w0) / p.weight_tick),
                      std::llround((options[i].*value - v0) / p.value_tick), i});
    }
    drop_dominated(item);
    for (const Choice& c : item) {
      weight_gcd = std::gcd(weight_gcd, c.weight);
      value_gcd = std::gcd(value_gcd, c.value);
    }
    most += item.back().weight;
    p.items.push_back(std::move(item));
  }
  const double room = limit - p.least_weight + kLimitTolerance * std::abs(limit);
  if (!(room >= 0)) return std::nullopt;
  p.capacity = static_cast<std::int64_t>(std::min(room / p.weight_tick, static_cast<double>(most)));
  // Sums of weights are multiples of their common divisor: with equal costs the linear bound becomes exact.
  if (weight_gcd > 0) p.capacity -= p.capacity % weight_gcd;
  p.value_step = std::max<std::int64_t>(value_gcd, 1);
  return p;
}

/// One step along the lower convex hull of an item's choices.
struct Step {
  std::size_t item = 0;
  std::size_t from = 0, to = 0;  ///< indices into the item
  double worth = 0;              ///< value saved per weight
};

std::vector<Step> hull_steps(const std::vector<Item>& items) {
  std::vector<Step> steps;
  const auto worth = [](const Choice& a, const Choice& b) {
    return static_cast<double>(a.value - b.value) / static_cast<double>(b.weight - a.weight);
  };
  for (std::size_t g = 0; g < items.size(); ++g) {
    const Item& item = items[g];
    for (std::size_t at = 0; at + 1 < item.size();) {
      std::size_t best = at + 1;
      for (std::size_t i = at + 2; i < item.size(); ++i) {
        if (worth(item[at], item[i]) >= worth(item[at], item[best])) best = i;
      }
      steps.push_back({g, at, best, worth(item[at], item[best])});
      at = best;
    }
  }
  std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.worth > b.worth; });
  return steps;
}

struct Relaxation {
  std::vector<std::size_t> chosen;  ///< the linear solution without its one fractional step
  std::vector<std::size_t> filled;  ///< further steps where they fit: the first solution
  double multiplier = 0;
  std::int64_t slack = 0;  ///< capacity that `chosen` leaves
};

Relaxation relax(const Problem& p) {
  Relaxation r;
  r.chosen.assign(p.items.size(), 0);
  r.slack = p.capacity;
  std::int64_t room = p.capacity;
  bool broken = false;
  for (const Step& s : hull_steps(p.items)) {
    const auto& item = p.items[s.item];
    const auto weight = item[s.to].weight - item[s.from].weight;
    if (!broken && weight > room) {
      broken = true;
      r.multiplier = s.worth;
      r.slack = room;
      r.filled = r.chosen;
    }
    auto& at = broken ? r.filled[s.item] : r.chosen[s.item];
    if (at != s.from || weight > room) continue;
    at = s.to;
    room -= weight;
  }
  if (!broken) {
    r.filled = r.chosen;
    r.slack = room;
  }
  return r;
}

/// An item that the bound left open: its other choices as differences to the linear solution.
struct Alternative {
  std::int64_t weight = 0, value = 0;
  std::size_t choice = 0;
};

struct OpenItem {
  std::size_t item = 0;
  std::vector<Alternative> alternatives;
  double up = kInfinity;    ///< least reduced cost per weight added
  double down = kInfinity;  ///< least reduced cost per weight taken away
};

constexpr auto kNone = std::numeric_limits<std::uint32_t>::max();

/// A solution that differs from the linear one by `weight` and `value` so far. What differs is found by following
/// `node`, and `taken` is the alternative of the item being decided.
struct State {
  std::int64_t weight = 0, value = 0;
  std::uint32_t node = 0;
  std::uint32_t taken = kNone;
};

struct Node {
  std::uint32_t parent = 0;
  std::uint32_t open_item = 0;
  std::uint32_t alternative = 0;
};

class Search {
 public:
  Search(const Problem& problem, const Relaxation& relaxation) : p_(problem), r_(relaxation) {
    best_ = r_.filled;
    for (std::size_t g = 0; g < p_.items.size(); ++g) {
      base_ += p_.items[g][r_.chosen[g]].value;
      best_value_ += p_.items[g][best_[g]].value;
    }
    find_open_items();
  }

  /// Returns a lower bound of the summed value, the best value itself where it is proved optimal.
  double run(std::size_t max_states) {
    std::vector<State> states{{}};
    std::vector<State> next;
    nodes_.push_back({});
    double dropped = kInfinity;
    for (std::size_t i = 0; i < open_.size(); ++i) {
      const auto& alternatives = open_[i].alternatives;
      next.clear();
      for (const State& s : states) {
        if (can_win(s, i + 1)) next.push_back(s);
        for (std::uint32_t a = 0; a < alternatives.size(); ++a) {
          const State moved{s.weight + alternatives[a].weight, s.value + alternatives[a].value, s.node, a};
          if (!can_win(moved, i + 1)) continue;
          remember_if_best(moved, i);
          next.push_back(moved);
        }
      }
      keep_undominated(next);
      const std::size_t left = max_states > nodes_.size() ? max_states - nodes_.size() : 0;
      dropped = std::min(dropped, keep_most_promising(next, i + 1, left / (open_.size() - i) + 1));
      for (State& s : next) {
        if (s.taken == kNone) continue;
        nodes_.push_back({s.node, static_cast<std::uint32_t>(i), s.taken});
        s.node = static_cast<std::uint32_t>(nodes_.size() - 1);
        s.taken = kNone;
      }
      states.swap(next);
    }
    const auto best = static_cast<double>(best_value_);
    return worth_keeping(dropped) ? std::min(dropped, best) : best;
  }

  [[nodiscard]] const std::vector<std::size_t>& best() const { return best_; }
  [[nodiscard]] std::int64_t best_value() const { return best_value_; }
  [[nodiscard]] std::size_t open_items() const { return open_.size(); }
  [[nodiscard]] std::size_t states() const { return nodes_.size(); }

 private:
  /// Least value of any solution that a state can grow into when the open items from `next` on are still free.
  [[nodiscard]] double bound(std::int64_t weight, std::int64_t value, double up, double down) const {
    const auto slack = static_cast<double>(r_.slack - weight);
    const double at_limit = static_cast<double>(base_ + value) - r_.multiplier * slack;
    return slack >= 0 ? at_limit + std::min(r_.multiplier, up) * slack : at_limit - down * slack;
  }

  [[nodiscard]] bool worth_keeping(double lower_bound) const {
    return lower_bound <= static_cast<double>(best_value_ - p_.value_step) + kMargin;
  }

  [[nodiscard]] bool can_win(const State& s, std::size_t next) const {
    return worth_keeping(bound(s.weight, s.value, up_[next], down_[next]));
  }

  void find_open_items() {
    for (std::size_t g = 0; g < p_.items.size(); ++g) {
      const Item& item = p_.items[g];
      const Choice& base = item[r_.chosen[g]];
      OpenItem open{g, {}, kInfinity, kInfinity};
      for (std::size_t c = 0; c < item.size(); ++c) {
        if (c == r_.chosen[g]) continue;
        const Alternative a{item[c].weight - base.weight, item[c].value - base.value, c};
        // The other items may still move by any weight for free here, so only the reduced cost counts.
        if (!worth_keeping(bound(a.weight, a.value, 0, 0))) continue;
        const double reduced =
            std::max(0.0, static_cast<double>(a.value) + r_.multiplier * static_cast<double>(a.weight));
        const double per_weight = reduced / std::abs(static_cast<double>(a.weight));
        (a.weight > 0 ? open.up : open.down) = std::min(a.weight > 0 ? open.up : open.down, per_weight);
        open.alternatives.push_back(a);
      }
      if (!open.alternatives.empty()) open_.push_back(std::move(open));
    }
    // Cheap moves first: what is left then makes coming back to the limit dear, and states die early.
    std::stable_sort(open_.begin(), open_.end(), [](const OpenItem& a, const OpenItem& b) {
      return std::min(a.up, a.down) < std::min(b.up, b.down);
    });
    up_.assign(open_.size() + 1, kInfinity);
    down_.assign(open_.size() + 1, kInfinity);
    for (std::size_t i = open_.size(); i-- > 0;) {
      up_[i] = std::min(up_[i + 1], open_[i].up);
      down_[i] = std::min(down_[i + 1], open_[i].down);
    }
  }

  void remember_if_best(const State& s, std::size_t i) {
    if (s.weight > r_.slack || base_ + s.value >= best_value_) return;
    best_value_ = base_ + s.value;
    best_ = r_.chosen;
    best_[open_[i].item] = open_[i].alternatives[s.taken].choice;
    for (auto n = s.node; n != 0; n = nodes_[n].parent) {
      const OpenItem& open = open_[nodes_[n].open_item];
      best_[open.item] = open.alternatives[nodes_[n].alternative].choice;
    }
  }

  static void keep_undominated(std::vector<State>& states) {
    std::sort(states.begin(), states.end(), [](const State& a, const State& b) {
      return std::tie(a.weight, a.value, a.node, a.taken) < std::tie(b.weight, b.value, b.node, b.taken);
    });
    std::size_t kept = 0;
    for (const State& s : states) {
      if (kept == 0 || s.value < states[kept - 1].value) states[kept++] = s;
    }
    states.resize(kept);
  }

  /// Keeps at most `count` states, those of the lowest bounds; returns the lowest bound of what it dropped.
  [[nodiscard]] double keep_most_promising(std::vector<State>& states, std::size_t next, std::size_t count) const {
    if (states.size() <= count) return kInfinity;
    const auto bound_of = [&](const State& s) { return bound(s.weight, s.value, up_[next], down_[next]); };
    const auto key = [&](const State& s) { return std::tuple(bound_of(s), std::abs(r_.slack - s.weight), s.weight); };
    const auto end = states.begin() + static_cast<std::ptrdiff_t>(count);
    std::nth_element(states.begin(), end, states.end(),
                     [&](const State& a, const State& b) { return key(a) < key(b); });
    const double lowest = bound_of(*end);
    states.erase(end, states.end());
    return lowest;
  }

  const Problem& p_;
  const Relaxation& r_;
  std::vector<OpenItem> open_;
  std::vector<double> up_, down_;  ///< least ratios among open items i and later
  std::vector<Node> nodes_;
  std::vector<std::size_t> best_;
  std::int64_t base_ = 0, best_value_ = 0;
};

std::optional<BudgetSolution> solve(const BudgetItems& items, Member weight, Member value, double limit,
                                    std::size_t max_states) {
  const auto problem = in_ticks(items, weight, value, limit);
  if (!problem) return std::nullopt;
  const auto relaxation = relax(*problem);
  Search search(*problem, relaxation);
  const double bound = search.run(max_states);
  BudgetSolution s;
  for (std::size_t g = 0; g < items.size(); ++g) {
    s.chosen.push_back(problem->items[g][search.best()[g]].option);
    s.cost += items[g][s.chosen[g]].cost;
    s.error += items[g][s.chosen[g]].error;
  }
  s.gap = (static_cast<double>(search.best_value()) - bound) * problem->value_tick;
  s.bound = (value == &BudgetOption::error ? s.error : s.cost) - s.gap;
  s.multiplier = relaxation.multiplier * problem->value_tick / problem->weight_tick;
  s.proved = s.gap <= 0;
  s.open_items = search.open_items();
  s.states = search.states();
  return s;
}

}  // namespace

std::optional<BudgetSolution> least_error(const BudgetItems& items, double max_cost, std::size_t max_states) {
  return solve(items, &BudgetOption::cost, &BudgetOption::error, max_cost, max_states);
}

std::optional<BudgetSolution> least_cost(const BudgetItems& items, double max_error, std::size_t max_states) {
  return solve(items, &BudgetOption::error, &BudgetOption::cost, max_error, max_states);
}

}  // namespace sage2
