#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "datasets/capture.hpp"
#include "datasets/capture_writer.hpp"
#include "fmt/format.h"
#include "gtest/gtest.h"

/// Small captures for tests, in a folder that goes with the test.
namespace sage2::testing {

class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "sage2-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot create " + name);
    path_ = name;
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// A value for each place of a capture, different in neighbouring places: integers from -127 to 127, which every format
/// holds exactly.
inline float value_at(std::size_t tensor, std::size_t batch, std::size_t head, std::size_t row, std::size_t col) {
  const std::size_t mixed = tensor * 31 + batch * 57 + head * 83 + row * 7 + col * 3;
  return static_cast<float>(static_cast<int>(mixed % 255) - 127);
}

inline Matrix head_values(const Shape& shape, TensorName name, std::size_t batch, std::size_t head) {
  Matrix m(name == TensorName::q ? shape.q_len : shape.kv_len, shape.head_dim);
  for (std::size_t i = 0; i < m.rows; ++i) {
    for (std::size_t j = 0; j < m.cols; ++j) m(i, j) = value_at(static_cast<std::size_t>(name), batch, head, i, j);
  }
  return m;
}

inline CellInfo small_cell() {
  CellInfo cell;
  cell.layer_name = "blocks.0.attn";
  cell.shape = {2, 4, 2, 5, 7, 8};
  cell.sm_scale = 0.25F;
  return cell;
}

inline void write_cell(CaptureWriter& writer, const CellInfo& cell) {
  writer.begin_cell(cell);
  for (const TensorName name : {TensorName::q, TensorName::k, TensorName::v}) {
    const std::size_t heads = name == TensorName::q ? cell.shape.q_heads : cell.shape.kv_heads;
    for (std::size_t b = 0; b < cell.shape.batch; ++b) {
      for (std::size_t h = 0; h < heads; ++h) writer.write_head(name, b, h, head_values(cell.shape, name, b, h));
    }
  }
}

inline void write_capture(const std::filesystem::path& file, const CellInfo& cell, int gzip = 0) {
  CaptureWriter writer(file, {"test model", "test source", gzip});
  write_cell(writer, cell);
  writer.finish();
}

/// The message of the error that `action` throws, "" if it throws none.
template <typename E, typename F>
std::string message_of(F&& action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  }
  return "";
}

}  // namespace sage2::testing
