#include "datasets/problem.hpp"

#include <cmath>

namespace sage2 {

const char* to_string(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return "float16";
    case DType::bfloat16:
      return "bfloat16";
    case DType::float32:
      break;
  }
  return "float32";
}

std::optional<NonFinite> first_nonfinite(const Matrix& matrix) {
  NonFinite found;
  for (std::size_t i = 0; i < matrix.data.size(); ++i) {
    if (std::isfinite(matrix.data[i])) continue;
    if (found.count++ > 0) continue;
    found.row = i / matrix.cols;
    found.col = i % matrix.cols;
  }
  if (found.count == 0) return std::nullopt;
  return found;
}

}  // namespace sage2
