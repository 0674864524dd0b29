#include "harness/cuda_work.hpp"

#include <iterator>

#include "kernels/error_stats.hpp"
#include "kernels/exact_attention.hpp"

namespace sage2 {
namespace {

int made_current(int device) {
  SAGE2_CUDA_CHECK(cudaSetDevice(device));
  return device;
}

}  // namespace

CudaWorker::CudaWorker(int index) : device(made_current(index)) {}

CellResults::CellResults(std::size_t index, const CaptureReader& reader, CellInfo cell, std::string hash,
                         std::vector<NamedVariant> variants, std::vector<cuda::Route> routes,
                         std::vector<std::size_t> heads, const EvaluationPlan& plan, RecordSink& sink,
                         std::size_t chunks)
    : index_(index),
      reader_(reader),
      cell_(std::move(cell)),
      hash_(std::move(hash)),
      variants_(std::move(variants)),
      routes_(std::move(routes)),
      heads_(std::move(heads)),
      plan_(plan),
      sink_(sink),
      found_(variants_.size(), std::vector<std::vector<HeadOutcome>>(chunks)),
      seconds_(variants_.size()),
      missing_(variants_.size() * chunks) {}

void CellResults::add(std::size_t variant, std::size_t chunk, std::vector<HeadOutcome> heads, double seconds) {
  {
    const std::lock_guard lock(mutex_);
    found_[variant][chunk] = std::move(heads);
    seconds_[variant] += seconds;
    if (--missing_ > 0) return;
  }
  sink_.done(index_, records());
}

/// Chunks are in the order of batch entries and heads; a head whose rows were cut is in several.
std::vector<Record> CellResults::records() {
  std::vector<Record> records;
  for (std::size_t i = 0; i < variants_.size(); ++i) {
    VariantOutcome outcome{routes_[i] == cuda::Route::native ? "native" : "emulated", seconds_[i], {}};
    auto& heads = outcome.heads;
    for (auto& chunk : found_[i]) {
      for (auto& head : chunk) {
        if (!heads.empty() && heads.back().batch == head.batch && heads.back().head == head.head) {
          append(heads.back(), std::move(head));
        } else {
          heads.push_back(std::move(head));
        }
      }
    }
    records.push_back(make_record(reader_, cell_, variants_[i], record_key(hash_, variants_[i], plan_), "cuda",
                                  heads_.size(), plan_.seed, std::move(outcome)));
  }
  return records;
}

CudaWork::CudaWork(std::shared_ptr<CellResults> results, std::size_t chunk_index, Chunk chunk, HostHeads host,
                   const ChunkBytes& bytes)
    : results_(std::move(results)),
      chunk_index_(chunk_index),
      chunk_(std::move(chunk)),
      host_(std::move(host)),
      sampled_(!host_.rows.empty()) {
  host_bytes = host_.bytes();
  resident_bytes = bytes.resident;
  scratch_bytes = bytes.scratch;
}

void CudaWork::prepare(Worker& worker) {
  auto* const stream = dynamic_cast<CudaWorker&>(worker).stream.get();
  device_ = DeviceHeads(host_, stream);
  host_ = {};
  const auto values = device_.q_count() * device_.row_count() * device_.head_dim();
  reference_ = cuda::DeviceBuffer<double>(static_cast<std::size_t>(values), stream);
  cuda::exact_attention(device_.problem(), device_.rows(), reference_.data(), nullptr, stream);
  ready_.emplace();
  ready_->record(stream);
}

void CudaWork::run_part(Worker& worker, std::size_t part) {
  auto* const stream = dynamic_cast<CudaWorker&>(worker).stream.get();
  const bool tensor_cores = results_->on_tensor_cores(part);
  ready_->hold_back(stream);
  cuda::Event begin;
  cuda::Event end;
  begin.record(stream);
  const VariantRun run(device_, results_->variants()[part].variant, tensor_cores, stream);
  end.record(stream);
  auto errors = cuda::error_stats(reference_.data(), run.output(), device_.q_count(), device_.row_count(),
                                  device_.head_dim(), sampled_, stream);
  const auto counts = run.counts();
  // What is counted of whole heads is counted once, with their first rows: tensor cores compute all rows, and codes
  // of Q, K and V are clamped whatever rows are evaluated.
  const bool first_rows = chunk_.first_row == 0;
  std::vector<HeadOutcome> heads;
  for (const auto& group : chunk_.groups) {
    for (const auto head : group.q_heads) {
      auto& found = errors[heads.size()];
      const auto& count = counts[heads.size()];
      HeadOutcome outcome{static_cast<int>(group.batch), static_cast<int>(head), std::move(found.stats),
                          std::move(found.row_sums)};
      if (first_rows || !tensor_cores) {
        outcome.p_underflow = count.p_underflow;
        outcome.p_total = count.p_total;
        outcome.saturated = count.saturated;
      }
      heads.push_back(std::move(outcome));
    }
  }
  results_->add(part, chunk_index_, std::move(heads), end.seconds_since(begin));
}

}  // namespace sage2
