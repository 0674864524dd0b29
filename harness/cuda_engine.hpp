#pragma once

#include <cstddef>
#include <memory>
#include <thread>
#include <vector>

#include "harness/cuda_start.hpp"
#include "harness/engine.hpp"
#include "harness/work_queue.hpp"
#include "kernels/native.hpp"

/// The engine on all GPUs of this machine.
namespace sage2 {

/// Which of a chip's kernels run: where a variant has one on tensor cores, that, or the emulation on CUDA cores.
enum class Kernels { automatic, native, emulated };

struct CudaSettings {
  Kernels kernels = Kernels::automatic;
  std::size_t memory = 0;  ///< bytes of each GPU to use at most; 0: what is free
};

/// Cells are cut into chunks of heads that fit in memory, chunks are dealt to the GPUs. A chunk's Q, K and V are
/// uploaded once, as they are stored, and its FP64 reference is computed once; then its variants run at the same time
/// on several streams, and only sums come back. The calling thread reads the next cells meanwhile.
///
/// Where only some query rows are wanted, variants are emulated on CUDA cores: kernels for tensor cores compute all
/// rows.
class CudaEngine : public Engine {
 public:
  /// `start` must have found a device.
  CudaEngine(CudaStart& start, const CudaSettings& settings, const EvaluationPlan& plan, RecordSink& sink);
  ~CudaEngine() override;

  [[nodiscard]] std::size_t keep() const override;
  /// Besides DataError: DeviceError where a variant shall run natively and cannot.
  void evaluate(CellJob job) override;
  void finish() override;

 private:
  void begin();
  [[nodiscard]] cuda::Route route(const NamedVariant& variant, const CellInfo& cell) const;

  CudaStart& start_;
  CudaSettings settings_;
  const EvaluationPlan& plan_;
  RecordSink& sink_;
  std::vector<std::unique_ptr<Worker>> workers_;  ///< outlives the queue: what is held there belongs to their streams
  std::unique_ptr<WorkQueue> queue_;              ///< made when the first cell is there
  std::size_t chunk_bytes_ = 0;
  std::vector<std::jthread> threads_;
};

}  // namespace sage2
