#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "kernels/cuda_check.hpp"

/// Owners of streams and of memory on a device. All belong to the device that was current when they were made.
namespace sage2::cuda {

/// A stream that does not wait for the default stream.
class Stream {
 public:
  Stream() { SAGE2_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  Stream(Stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  Stream& operator=(Stream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~Stream() {
    if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
  }
  [[nodiscard]] cudaStream_t get() const { return stream_; }
  void synchronize() const { SAGE2_CUDA_CHECK(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Memory of `size` elements, taken from and given back to the device's pool in the order of a stream, so that neither
/// waits for the device. Not initialised. Throws DeviceError, saying how much was needed, where there is none.
template <class T>
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(std::size_t size, cudaStream_t stream) : size_(size), stream_(stream) {
    if (size == 0) return;
    void* memory = nullptr;
    const auto status = cudaMallocAsync(&memory, size * sizeof(T), stream);
    if (status == cudaErrorMemoryAllocation) out_of_memory(size * sizeof(T));
    check(status, "cudaMallocAsync", __FILE__, __LINE__);
    data_ = static_cast<T*>(memory);
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)), stream_(other.stream_) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~DeviceBuffer() {
    if (data_ != nullptr) (void)cudaFreeAsync(data_, stream_);
  }

  [[nodiscard]] T* data() { return data_; }
  [[nodiscard]] const T* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }

  void zero() {
    if (size_ > 0) SAGE2_CUDA_CHECK(cudaMemsetAsync(data_, 0, size_ * sizeof(T), stream_));
  }
  /// Copies from the host in the order of the stream; pageable memory may be reused at once.
  void upload(std::span<const T> from) {
    if (!from.empty()) {
      SAGE2_CUDA_CHECK(cudaMemcpyAsync(data_, from.data(), from.size_bytes(), cudaMemcpyHostToDevice, stream_));
    }
  }
  /// Copies to the host and waits for it.
  [[nodiscard]] std::vector<T> download() const {
    std::vector<T> out(size_);
    if (size_ > 0) {
      SAGE2_CUDA_CHECK(cudaMemcpyAsync(out.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost, stream_));
      SAGE2_CUDA_CHECK(cudaStreamSynchronize(stream_));
    }
    return out;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
  cudaStream_t stream_ = nullptr;
};

}  // namespace sage2::cuda
