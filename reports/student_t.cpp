#include "reports/student_t.hpp"

#include <cmath>
#include <limits>

namespace sage2 {
namespace {

/// Continued fraction of the regularised incomplete beta function (Abramowitz and Stegun 26.5.8), by Lentz's method.
double beta_fraction(double a, double b, double x) {
  constexpr double kTiny = 1e-300;
  const auto guarded = [](double v) { return std::abs(v) < kTiny ? kTiny : v; };
  double c = 1;
  double d = 1 / guarded(1 - (a + b) * x / (a + 1));
  double value = d;
  for (int m = 1; m < 1000; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    double last = 1;
    for (const double term : {even, odd}) {
      d = 1 / guarded(1 + term * d);
      c = guarded(1 + term / c);
      last = c * d;
      value *= last;
    }
    if (std::abs(last - 1) < 1e-15) break;
  }
  return value;
}

/// I_x(a, b).
double incomplete_beta(double a, double b, double x) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  // lgamma writes the sign of gamma to a global, which nothing here reads.
  const double front =  // NOLINTNEXTLINE(concurrency-mt-unsafe)
      std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x));
  return x < (a + 1) / (a + b + 2) ? front * beta_fraction(a, b, x) / a : 1 - front * beta_fraction(b, a, 1 - x) / b;
}

}  // namespace

double student_t_quantile(double probability, double degrees) {
  // P(|T| > t) = I_{v / (v + t^2)}(v/2, 1/2) falls steadily with t: bisection on a logarithmic scale.
  const double outside = 1 - probability;
  double low = -40;
  double high = 40;
  for (int i = 0; i < 200; ++i) {
    const double middle = (low + high) / 2;
    const double t = std::exp(middle);
    (incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t)) > outside ? low : high) = middle;
  }
  return std::exp((low + high) / 2);
}

Interval mean_interval(const std::vector<double>& values, double confidence) {
  const auto n = static_cast<double>(values.size());
  Interval result;
  for (const double v : values) result.mean += v / n;
  double squares = 0;
  for (const double v : values) squares += (v - result.mean) * (v - result.mean);
  const double half = values.size() < 2 ? std::numeric_limits<double>::infinity()
                      : squares == 0    ? 0
                                        : student_t_quantile(confidence, n - 1) * std::sqrt(squares / (n - 1) / n);
  result.low = result.mean - half;
  result.high = result.mean + half;
  return result;
}

}  // namespace sage2
