#pragma once

#include <cuda_runtime_api.h>

#include <utility>

#include "kernels/cuda_check.hpp"

/// Points in the order of a stream.
namespace sage2::cuda {

/// Belongs to the device that was current when it was made.
class Event {
 public:
  Event() { SAGE2_CUDA_CHECK(cudaEventCreate(&event_)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~Event() {
    if (event_ != nullptr) (void)cudaEventDestroy(event_);
  }

  void record(cudaStream_t stream) { SAGE2_CUDA_CHECK(cudaEventRecord(event_, stream)); }
  /// What is asked of `stream` from now on begins after this point.
  void hold_back(cudaStream_t stream) const { SAGE2_CUDA_CHECK(cudaStreamWaitEvent(stream, event_)); }
  /// Seconds from an earlier point to this one; both must have been reached.
  [[nodiscard]] double seconds_since(const Event& earlier) const {
    float milliseconds = 0;
    SAGE2_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, earlier.event_, event_));
    return static_cast<double>(milliseconds) * 1e-3;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace sage2::cuda
