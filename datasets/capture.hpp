#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "datasets/problem.hpp"

/// Reader of capture files, schema "sage2-capture" version 1 (docs/capture.md), and of foreign files by path template.
namespace sage2 {

/// Order of the two middle axes of a tensor: [batch, heads, length, dim] or [batch, length, heads, dim].
enum class Layout : std::uint8_t { hnd, nhd };

enum class TensorName : std::uint8_t { q, k, v };

/// "q", "k", "v".
[[nodiscard]] const char* to_string(TensorName name);

/// What identifies one attention call in a capture; ordered by layer, then timestep, then sample.
struct CellId {
  int layer = 0;
  int timestep = 0;
  int sample = 0;
  auto operator<=>(const CellId&) const = default;
};

/// Everything about one attention call except its numbers.
struct CellInfo {
  CellId id;
  std::string layer_name;
  double timestep_value = 0;
  std::optional<std::string> sample_name;
  std::optional<std::string> cfg_branch;
  std::optional<std::int64_t> seed;
  Shape shape;
  DType dtype = DType::float16;  ///< the widest of the three tensors' formats (float16, bfloat16, float32)
  Layout layout = Layout::hnd;
  bool is_causal = false;
  CausalAlign causal_align = CausalAlign::bottom_right;
  float sm_scale = 1.0F;
  std::array<std::string, 3> paths;  ///< datasets of q, k, v inside the file
  std::array<DType, 3> dtypes{};     ///< their formats, which may differ
  std::string output_path;           ///< dataset of the model's own output, empty where there is none
};

struct ReaderOptions {
  /// Path of the datasets in a foreign file, with {layer}, {timestep}, {sample} and {tensor} as place holders, for
  /// example "/{timestep}/{layer}/{tensor}". Empty: the schema's own layout. A place holder left out reads as 0.
  std::string path_template;
  /// Used where a foreign file has no attribute of that name.
  std::optional<Layout> layout;
  std::optional<bool> is_causal;
  std::optional<float> sm_scale;  ///< default 1/sqrt(head_dim) in foreign files
};

/// Streams one head at a time; never holds a whole tensor. Not thread-safe (HDF5 has one global lock anyway): one
/// thread reads, others compute.
class CaptureReader {
 public:
  /// Opens and indexes the file. Throws DataError naming the file where it is missing, truncated, not HDF5 or of
  /// another schema; UsageError where the path template is malformed.
  explicit CaptureReader(const std::filesystem::path& file, const ReaderOptions& options = {});
  ~CaptureReader();
  CaptureReader(CaptureReader&&) noexcept;
  CaptureReader& operator=(CaptureReader&&) noexcept;

  [[nodiscard]] const std::filesystem::path& file() const;
  [[nodiscard]] const std::string& model() const;   ///< attribute "model", "" in foreign files without it
  [[nodiscard]] const std::string& source() const;  ///< attribute "source", likewise
  /// All cells in ascending order. Found by name only; `describe` checks the contents.
  [[nodiscard]] const std::vector<CellId>& cells() const;

  /// Reads and checks attributes and shapes of one cell. Throws DataError naming file, dataset, expectation, finding.
  [[nodiscard]] CellInfo describe(const CellId& id) const;

  /// One head as an FP32 matrix [length, head_dim]. Non-finite values are returned as they are.
  [[nodiscard]] Matrix read_head(const CellInfo& cell, TensorName name, std::size_t batch, std::size_t head) const;

  /// The same into a matrix whose memory is used again: about twice as fast for long sequences.
  void read_head(const CellInfo& cell, TensorName name, std::size_t batch, std::size_t head, Matrix& matrix) const;

  /// The stored values of one head, bit by bit, 2 or 4 bytes each in this machine's byte order, without conversion.
  void read_head_bits(const CellInfo& cell, TensorName name, std::size_t batch, std::size_t head,
                      std::vector<std::byte>& bits) const;

  /// The model's own output of one query head [q_len, head_dim]; only where `cell.output_path` is not empty.
  [[nodiscard]] Matrix read_output(const CellInfo& cell, std::size_t batch, std::size_t q_head) const;

  /// Q, K and V of one query head, with the key/value head that belongs to it.
  [[nodiscard]] HeadProblem read_problem(const CellInfo& cell, std::size_t batch, std::size_t q_head) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Is shown the stored values of one head (as `read_head_bits` gives them); may take them.
using HeadVisitor =
    std::function<void(TensorName name, std::size_t batch, std::size_t head, std::vector<std::byte>& bits)>;

/// 128-bit hash (hex) of the contents of a cell: shape, format, mask, scale and the values of Q, K and V in HND order.
/// Depends neither on the file's name nor on its layout, chunks or compression. Every head of Q, K and V is read once;
/// `visit` sees them in that order.
[[nodiscard]] std::string content_hash(const CaptureReader& reader, const CellInfo& cell,
                                       const HeadVisitor& visit = {});

/// The same hash of any text.
[[nodiscard]] std::string text_hash(std::string_view text);

/// Hash (hex) of a file's size, first and last MiB: tells files apart without reading a terabyte.
[[nodiscard]] std::string file_fingerprint(const std::filesystem::path& file);

}  // namespace sage2
