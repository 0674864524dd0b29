#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "reports/bench.hpp"
#include "reports/cells.hpp"

/// What running a cell in a variant costs: measured milliseconds, or a stated count of operations.
namespace sage2 {

/// Bits of the operands of the two products of attention.
struct OperandBits {
  int qk = 16;  ///< of Q K^T
  int pv = 16;  ///< of P V
};

/// The operations model: time of a variant relative to FP16 on tensor cores, where each product is half of the FLOPs,
/// 8-bit operands run twice and operands of 4 bits or fewer four times as fast as 16-bit ones. What quantising and
/// smoothing cost is not in it. 1 for FP16, 0.5 for INT8 + FP8, 0.375 for INT4 + FP8.
[[nodiscard]] double relative_time(const OperandBits& bits);

/// Cost of every (cell, variant), averaged over the cell's samples, since their lengths may differ.
struct Costs {
  CellGrid grid;
  std::string unit;                ///< "ms" or "TFLOP" (FP16 equivalents)
  std::string source;              ///< one line for tables and maps
  std::vector<std::string> notes;  ///< what was scaled from another shape
};

/// By the operations model. `bits_of` gets a canonical spelling.
[[nodiscard]] Costs modelled_costs(const CellTable& table,
                                   const std::function<OperandBits(const std::string&)>& bits_of);

/// By measurement. A shape that was not measured is scaled by FLOPs from the nearest one (in FLOPs) of the same
/// variant, head dim and mask, and a note says so. Throws DataError where there is none.
[[nodiscard]] Costs measured_costs(const CellTable& table, const std::vector<BenchEntry>& entries,
                                   const std::string& file);

}  // namespace sage2
