#include "reports/metric.hpp"

#include "datasets/error.hpp"
#include "fmt/format.h"

namespace sage2 {

const MetricInfo& metric_info(const std::string& name) {
  std::string names;
  for (const auto& m : kMetrics) {
    if (name == m.name) return m;
    names += names.empty() ? m.name : fmt::format(", {}", m.name);
  }
  throw UsageError(fmt::format("--metric: no metric is called \"{}\"; there are {}", name, names));
}

}  // namespace sage2
