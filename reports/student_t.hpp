#pragma once

#include <vector>

/// Confidence intervals of a mean.
namespace sage2 {

/// x such that Student's t with `degrees` of freedom (at least 1) lies in [-x, x] with this probability (0 < p < 1).
[[nodiscard]] double student_t_quantile(double probability, double degrees);

struct Interval {
  double mean = 0, low = 0, high = 0;
};

/// Mean of independent values and its confidence interval by Student's t: mean -+ t s / sqrt(n), s the sample standard
/// deviation. Unbounded for one value. Not for empty input.
[[nodiscard]] Interval mean_interval(const std::vector<double>& values, double confidence);

}  // namespace sage2
