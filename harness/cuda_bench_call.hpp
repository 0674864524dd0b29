#pragma once

#include <memory>
#include <string>

#include "kernels/device_buffer.hpp"
#include "kernels/device_problem.hpp"
#include "kernels/sm90_plan.hpp"
#include "reference/metrics.hpp"
#include "reports/record.hpp"

/// What `bench` times.
namespace sage2::cuda {

/// Q, K and V in BF16 with channel biases (K's largest), and room for the output.
class BenchTensors {
 public:
  BenchTensors(const RecordShape& shape, cudaStream_t stream);
  [[nodiscard]] const RecordShape& shape() const { return shape_; }
  [[nodiscard]] const DeviceProblem& problem() const { return problem_; }
  [[nodiscard]] std::uint16_t* out() { return o_.data(); }

 private:
  RecordShape shape_;
  DeviceBuffer<std::uint16_t> q_, k_, v_, o_;
  DeviceProblem problem_;
};

/// A variant of one kernel on such tensors, in a workspace of its own.
class BenchCall {
 public:
  BenchCall(BenchTensors& tensors, const sm90::Plan& plan, cudaStream_t stream);
  void prepare();
  /// After prepare: the rest of a whole call, output in BF16.
  void attend();
  /// After rewind, some time after a whole call: the kernel alone. All codes of K and V are there.
  void attend_alone();
  void rewind();
  /// Preparation and kernel, into FP32 [heads, rows, head_dim].
  void run_into(float* o);

 private:
  void attend_into(void* o, sm90::OutType type, sm90::Codes v_codes);
  BenchTensors& tensors_;
  sm90::Plan plan_;
  sm90::Workspace parts_;
  DeviceBuffer<std::uint8_t> memory_;
  void* workspace_;  ///< memory_, aligned
  cudaStream_t stream_;
};

struct Verdict {
  std::string why_not;  ///< "" where it may be timed
  ErrorMetrics errors;  ///< against FP64, on 16 rows of every head
};
/// Runs the kernel, and the accurate one of the same variant (which tests hold to the CPU's emulation), on these very
/// tensors, and compares both with FP64: why_not_timed. The accurate one may be off by 0.06 with INT8 and 0.25 with
/// INT4 (relative L1), twice what these tensors show.
[[nodiscard]] Verdict verify(BenchTensors& tensors, const Variant& variant, const sm90::Plan& plan,
                             cudaStream_t stream);

}  // namespace sage2::cuda
