#include "harness/cuda_engine.hpp"

#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "harness/chunk_plan.hpp"
#include "harness/cuda_work.hpp"

namespace sage2 {
namespace {

/// Variants of short sequences fill a GPU only together.
constexpr std::size_t kStreams = 8;
/// Of the free memory: the rest is for what kernels need that does not grow, and for gaps between blocks.
constexpr double kShareOfMemory = 0.85;
constexpr std::size_t kMostHostBytes = std::size_t{8} << 30;

/// Q, K and V that are read and wait for a GPU.
std::size_t host_bytes() {
  const auto physical =
      static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return std::min(physical / 8, kMostHostBytes);
}

HostHeads host_heads(const CellBits& bits, const Chunk& chunk, const EvaluationPlan& plan) {
  const auto& cell = bits.cell();
  auto heads = heads_of(cell);
  heads.first_row = chunk.first_row;
  heads.row_count = chunk.rows;
  for (const auto& group : chunk.groups) {
    heads.k.push_back(bits.head(TensorName::k, group.batch, group.kv_head));
    heads.v.push_back(bits.head(TensorName::v, group.batch, group.kv_head));
    for (const auto head : group.q_heads) {
      heads.q.push_back(bits.head(TensorName::q, group.batch, head));
      const auto rows = chosen_rows(cell, plan, group.batch, head);
      if (rows.empty()) continue;
      const auto first = rows.begin() + static_cast<std::ptrdiff_t>(chunk.first_row);
      heads.rows.insert(heads.rows.end(), first, first + static_cast<std::ptrdiff_t>(chunk.rows));
    }
  }
  return heads;
}

/// In the order in which the CPU engine reads, so that both name the same place.
void check_finite(const CellBits& bits, const std::vector<std::size_t>& heads) {
  const auto& shape = bits.cell().shape;
  for (std::size_t b = 0; b < shape.batch; ++b) {
    for (const auto h : heads) {
      bits.check(TensorName::k, b, shape.kv_head(h));
      bits.check(TensorName::v, b, shape.kv_head(h));
      bits.check(TensorName::q, b, h);
    }
  }
}

}  // namespace

CudaEngine::CudaEngine(CudaStart& start, const CudaSettings& settings, const EvaluationPlan& plan, RecordSink& sink)
    : start_(start), settings_(settings), plan_(plan), sink_(sink) {}

CudaEngine::~CudaEngine() {
  if (queue_ == nullptr) return;
  queue_->fail(std::make_exception_ptr(std::runtime_error("the evaluation was stopped")));
  threads_.clear();
}

std::size_t CudaEngine::keep() const {
  return host_bytes();
}

void CudaEngine::begin() {
  const auto& devices = start_.started();
  std::vector<std::size_t> memory;
  for (const auto& device : devices) {
    auto bytes = static_cast<std::size_t>(static_cast<double>(device.free_memory) * kShareOfMemory);
    if (settings_.memory > 0) bytes = std::min(bytes, settings_.memory);
    memory.push_back(bytes);
  }
  // Half of the smallest GPU's memory, so that a chunk is prepared while another is computed.
  chunk_bytes_ = *std::min_element(memory.begin(), memory.end()) / 2;
  queue_ = std::make_unique<WorkQueue>(std::move(memory), host_bytes());
  for (std::size_t i = 0; i < devices.size(); ++i) {
    for (std::size_t stream = 0; stream < kStreams; ++stream) {
      workers_.push_back(std::make_unique<CudaWorker>(devices[i].info.index));
      threads_.emplace_back([this, i, worker = workers_.back().get()] {
        try {
          SAGE2_CUDA_CHECK(cudaSetDevice(dynamic_cast<CudaWorker&>(*worker).device));
          queue_->work(i, *worker);
        } catch (...) {
          queue_->fail(std::current_exception());
        }
      });
    }
  }
}

cuda::Route CudaEngine::route(const NamedVariant& variant, const CellInfo& cell) const {
  using cuda::Route;
  if (settings_.kernels == Kernels::emulated) return Route::cuda_cores;
  const bool some_rows = plan_.queries && *plan_.queries < cell.shape.q_len;
  if (settings_.kernels == Kernels::automatic && some_rows) return Route::cuda_cores;
  // The same on all GPUs, since a cell's heads are spread over them.
  auto route = Route::native;
  for (const auto& device : start_.started()) {
    const auto& info = device.info;
    const auto best =
        cuda::route_on(variant.variant, static_cast<std::int64_t>(cell.shape.head_dim), info.major, info.minor);
    if (settings_.kernels == Kernels::native && best != Route::native) {
      throw DeviceError(fmt::format("--engine native: {} has no kernel for {} with head_dim {}; use --engine auto",
                                    info.name, variant.canonical, cell.shape.head_dim));
    }
    route = std::min(route, best);
  }
  return route;
}

void CudaEngine::evaluate(CellJob job) {
  if (queue_ == nullptr) begin();
  const auto& cell = job.bits.cell();
  auto heads = select_heads(job.bits.reader(), cell, plan_.heads);
  check_finite(job.bits, heads);
  std::vector<cuda::Route> routes;
  std::vector<bool> tensor_cores;
  for (const auto& variant : job.variants) {
    routes.push_back(route(variant, cell));
    tensor_cores.push_back(routes.back() != cuda::Route::cuda_cores);
  }
  const auto rows = std::min(plan_.queries.value_or(cell.shape.q_len), cell.shape.q_len);
  auto chunks = plan_chunks(cell, heads, rows, job.variants, tensor_cores, chunk_bytes_);
  const auto results = std::make_shared<CellResults>(job.index, job.bits.reader(), cell, job.bits.hash(), job.variants,
                                                     routes, std::move(heads), plan_, sink_, chunks.size());
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const auto bytes = chunk_bytes(cell, chunks[i], rows, job.variants, tensor_cores);
    auto host = host_heads(job.bits, chunks[i], plan_);
    queue_->push(std::make_unique<CudaWork>(results, i, std::move(chunks[i]), std::move(host), bytes));
  }
}

void CudaEngine::finish() {
  if (queue_ == nullptr) return;
  queue_->close();
  threads_.clear();  // each ends when everything is done
  queue_->rethrow();
}

}  // namespace sage2
