#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "harness/chunk_plan.hpp"
#include "harness/cuda_heads.hpp"
#include "harness/engine.hpp"
#include "harness/work_queue.hpp"
#include "kernels/device_buffer.hpp"
#include "kernels/event.hpp"
#include "kernels/native.hpp"

/// A chunk of a cell as work for a GPU.
namespace sage2 {

/// A thread of a GPU, with a stream of its own.
struct CudaWorker : Worker {
  explicit CudaWorker(int device);
  int device;
  cuda::Stream stream;
};

/// What the chunks of a cell found; the last one to finish makes the records.
class CellResults {
 public:
  /// `routes`: what computes each variant.
  CellResults(std::size_t index, const CaptureReader& reader, CellInfo cell, std::string hash,
              std::vector<NamedVariant> variants, std::vector<cuda::Route> routes, std::vector<std::size_t> heads,
              const EvaluationPlan& plan, RecordSink& sink, std::size_t chunks);

  [[nodiscard]] const std::vector<NamedVariant>& variants() const { return variants_; }
  [[nodiscard]] bool on_tensor_cores(std::size_t variant) const { return routes_[variant] != cuda::Route::cuda_cores; }

  /// What variant `variant` gave on chunk `chunk`, by head. May be called by any thread.
  void add(std::size_t variant, std::size_t chunk, std::vector<HeadOutcome> heads, double seconds);

 private:
  [[nodiscard]] std::vector<Record> records();

  const std::size_t index_;
  const CaptureReader& reader_;  ///< for its name only
  const CellInfo cell_;
  const std::string hash_;
  const std::vector<NamedVariant> variants_;
  const std::vector<cuda::Route> routes_;
  const std::vector<std::size_t> heads_;
  const EvaluationPlan& plan_;
  RecordSink& sink_;
  std::mutex mutex_;
  std::vector<std::vector<std::vector<HeadOutcome>>> found_;  ///< by variant, chunk, head
  std::vector<double> seconds_;                               ///< by variant
  std::size_t missing_;
};

class CudaWork : public Work {
 public:
  CudaWork(std::shared_ptr<CellResults> results, std::size_t chunk_index, Chunk chunk, HostHeads host,
           const ChunkBytes& bytes);
  void prepare(Worker& worker) override;
  void run_part(Worker& worker, std::size_t part) override;

 private:
  std::shared_ptr<CellResults> results_;
  std::size_t chunk_index_;
  Chunk chunk_;
  HostHeads host_;  ///< until it is on the device
  bool sampled_;    ///< whether the rows are a random sample, whose own sums are wanted
  DeviceHeads device_;
  cuda::DeviceBuffer<double> reference_;
  std::optional<cuda::Event> ready_;  ///< both are there
};

}  // namespace sage2
