#pragma once

#include <cstdint>
#include <string>
#include <vector>

/// What the hardware's ex2.approx.ftz.f32 does, against FP64 and the polynomial that the engines share instead.
namespace sage2::cuda {

struct Ex2Probe {
  std::string arguments;                ///< every FP32 number of this range
  std::uint64_t compared = 0;           ///< those whose power of two is not subnormal
  double worst_ulp = 0;                 ///< largest error in units of the last place of the true value
  double worst_relative = 0;            ///< largest relative error
  std::uint64_t correctly_rounded = 0;  ///< results that are the FP32 number nearest to 2^x
  std::uint64_t as_shared = 0;          ///< results that equal exp2_shared's
  std::uint64_t shared_rounded = 0;     ///< results of exp2_shared that are the nearest
  std::uint64_t aligned = 0;            ///< arguments +-(n + f) where 1 + f is an FP32 number ...
  std::uint64_t unlike_shifted = 0;     ///< ... and those whose result is not that of +-(1 + f), scaled
};
[[nodiscard]] std::vector<Ex2Probe> probe_ex2();

}  // namespace sage2::cuda
