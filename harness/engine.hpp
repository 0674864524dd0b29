#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "harness/cell_bits.hpp"
#include "harness/evaluate.hpp"
#include "harness/record_sink.hpp"

/// What computes: the CPU's emulation, or the GPUs of this machine. Both give the same record for the same cell.
namespace sage2 {

/// One cell to evaluate.
struct CellJob {
  std::size_t index = 0;               ///< of the cell, for the sink
  CellBits bits;                       ///< the cell and its values
  std::vector<NamedVariant> variants;  ///< those whose records are missing
};

class Engine {
 public:
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  virtual ~Engine() = default;

  /// Bytes of a cell that are worth keeping when it is hashed, so that it is read once; 0: read again head by head.
  [[nodiscard]] virtual std::size_t keep() const = 0;

  /// Evaluates a cell, now or later, and gives its records to the sink. Called by one thread, the one that reads
  /// captures. Throws DataError where the cell is not sound, and nothing of it is evaluated; any other error ends the
  /// run, and may be of an earlier cell.
  virtual void evaluate(CellJob job) = 0;

  /// Waits for all cells. Throws what ended the run, if anything.
  virtual void finish() = 0;
};

/// The emulation on the CPU, one cell after the other with all threads.
class CpuEngine : public Engine {
 public:
  CpuEngine(const EvaluationPlan& plan, RecordSink& sink) : plan_(plan), sink_(sink) {}
  [[nodiscard]] std::size_t keep() const override { return 0; }
  void evaluate(CellJob job) override {
    sink_.done(job.index, evaluate_cell(job.bits.reader(), job.bits.cell(), job.variants, plan_, job.bits.hash()));
  }
  void finish() override {}

 private:
  const EvaluationPlan& plan_;
  RecordSink& sink_;
};

}  // namespace sage2
