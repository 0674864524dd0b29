#include "harness/cuda_start.hpp"

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdlib>
#include <limits>

#include "kernels/cuda_check.hpp"

namespace sage2 {
namespace {

StartedDevice start(const cuda::DeviceInfo& info) {
  SAGE2_CUDA_CHECK(cudaSetDevice(info.index));
  SAGE2_CUDA_CHECK(cudaFree(nullptr));  // makes the context
  // Memory that one variant gives back is what the next one takes: keep it instead of returning it to the driver.
  cudaMemPool_t pool = nullptr;
  SAGE2_CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool, info.index));
  std::uint64_t keep = std::numeric_limits<std::uint64_t>::max();
  SAGE2_CUDA_CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
  std::size_t free = 0;
  std::size_t total = 0;
  SAGE2_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return {info, free};
}

}  // namespace

CudaStart::CudaStart() : list_(list_promise_.get_future().share()) {
  // The driver makes every hardware queue when it starts: with 32 of them `eval` of a small capture took 1.0 s on an
  // H200, with one 0.43 s, and kernels of independent streams overlap all the same. Read by the driver when it starts,
  // which it has not; no other thread of ours reads the environment yet.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "1", 0);  // NOLINT(concurrency-mt-unsafe)
  started_ = std::async(std::launch::async, [this] { return start_all(); }).share();
}

std::vector<StartedDevice> CudaStart::start_all() {
  cuda::DeviceList list;
  try {
    list = cuda::find_devices();
  } catch (...) {
    list_promise_.set_exception(std::current_exception());
    throw;
  }
  list_promise_.set_value(list);
  std::vector<std::future<StartedDevice>> starting;
  for (const auto& info : list.devices) starting.push_back(std::async(std::launch::async, start, info));
  std::vector<StartedDevice> all;
  for (auto& device : starting) all.push_back(device.get());
  return all;
}

CudaStart::~CudaStart() {
  started_.wait();
}

const cuda::DeviceList& CudaStart::found() {
  return list_.get();
}

const std::vector<StartedDevice>& CudaStart::started() {
  return started_.get();
}

}  // namespace sage2
