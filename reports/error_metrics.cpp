#include "reports/error_metrics.hpp"

#include <cmath>

namespace sage2 {

void add(ErrorSums& into, const ErrorSums& more) {
  into.ref_ref += more.ref_ref;
  into.out_out += more.out_out;
  into.ref_out += more.ref_out;
  into.abs_err += more.abs_err;
  into.abs_ref += more.abs_ref;
  into.sq_err += more.sq_err;
  into.count += more.count;
}

void add(EventCounts& into, const EventCounts& more) {
  into.nan += more.nan;
  into.inf += more.inf;
  into.p_underflow += more.p_underflow;
  into.p_total += more.p_total;
  into.saturated += more.saturated;
}

ErrorMetrics ratios(const ErrorSums& s) {
  ErrorMetrics m;
  if (std::isnan(s.ref_out)) {
    m.cos_sim = s.ref_out;
  } else if (s.ref_ref == 0 || s.out_out == 0) {
    m.cos_sim = s.ref_ref == s.out_out ? 1.0 : 0.0;
  } else {
    m.cos_sim = s.ref_out / (std::sqrt(s.ref_ref) * std::sqrt(s.out_out));
  }
  m.rel_l1 = s.abs_err == 0 ? 0.0 : s.abs_err / s.abs_ref;
  m.rmse = s.count == 0 ? 0.0 : std::sqrt(s.sq_err / s.count);
  return m;
}

}  // namespace sage2
