#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/device_problem.hpp"
#include "reference/variant.hpp"

/// The steps of quantize(), each one launch; what they compute is docs/numerics.md, section 2. All memory is the
/// device's. None of them waits for the stream.
namespace sage2::cuda {

/// FP32 working matrices of all heads: element (h, i, c) is data[(h * padded + i) * stride + c].
struct Work {
  float* data = nullptr;
  std::int64_t heads = 0;
  std::int64_t tokens = 0;  ///< rows that hold something
  std::int64_t padded = 0;  ///< rows in memory
  std::int32_t cols = 0;    ///< columns that hold something
  std::int32_t stride = 0;  ///< columns in memory
};

/// Copies a tensor into `out`, zeros in the padding.
void load_tensor(const TensorView& from, const Work& out, cudaStream_t stream);

/// mean [heads, cols]: FP64 sums over all tokens in ascending order, rounded to FP32 and then to `stored`.
void column_means(const Work& x, DType stored, float* mean, cudaStream_t stream);
/// mean [heads, blocks, cols] of each `block` rows (the last block: its real rows), likewise, in FP32.
void block_means(const Work& x, std::int64_t block, float* mean, cudaStream_t stream);
/// Subtracts in FP32; mean as above, one for each `block` rows.
void subtract_means(const Work& x, std::int64_t block, const float* mean, cudaStream_t stream);
/// band [heads, cols]: mean -+ 3 standard deviations, FP64 sums in ascending order.
void three_sigma_bands(const Work& x, double2* band, cudaStream_t stream);

/// dS [q heads, blocks, k.padded] of the block means of Q [q heads, blocks, cols] and the smoothed K.
void delta_scores(const float* q_mean, std::int64_t q_heads, std::int64_t blocks, const Work& k, double factor,
                  float* out, cudaStream_t stream);

/// Rows of x (cols wide) become rows of the next power of two, which must fit x.stride.
void hadamard_rows(const Work& x, cudaStream_t stream);

/// amax [heads, ceil(tokens / tile), cols] of |x| over each `tile` rows, as the bits of FP32. Must be zero before.
void column_amax(const Work& x, std::int64_t tile, std::uint32_t* amax, cudaStream_t stream);
/// SmoothAttn: lambda = sqrt(amax of K), 1 for zero channels; divides x by it or multiplies. Head h of x has the lambda
/// of head h / ratio.
void scale_by_lambda(const Work& x, const std::uint32_t* amax, std::int64_t ratio, bool divide, cudaStream_t stream);

struct QkRounding {
  Format format;
  QkGran gran;
  Geometry geometry;
  bool is_q;
  std::int64_t groups;  ///< a head
};
/// amax [heads, groups] over the rows of each group, as the bits of FP32. Must be zero before.
void group_amax(const Work& x, const QkRounding& how, std::uint32_t* amax, cudaStream_t stream);
/// Rounds to codes in place. scale [heads, padded]: of each row, 0 in the padding. saturated [heads]: added to.
void encode_rows(const Work& x, const QkRounding& how, const std::uint32_t* amax, float* scale,
                 unsigned long long* saturated, cudaStream_t stream);

void clip_to_bands(const Work& x, const double2* band, cudaStream_t stream);
/// What lies beyond its channel's band becomes the channel's lower median.
void replace_by_median(const Work& x, const double2* band, cudaStream_t stream);
/// Splits the channels of each head into the `outliers` largest by amax [heads, cols] (ties to the lower one) and the
/// rest, both ascending.
void choose_outliers(const std::uint32_t* amax, std::int64_t heads, std::int32_t cols, std::int32_t outliers,
                     std::uint32_t* rest_channels, std::uint32_t* outlier_channels, cudaStream_t stream);
/// channels [heads, count] = 0 .. count - 1.
void all_channels(std::int64_t heads, std::int32_t count, std::uint32_t* channels, cudaStream_t stream);
/// out's columns are the chosen ones of x; zeros in the padding.
void gather_columns(const Work& x, const std::uint32_t* channels, const Work& out, cudaStream_t stream);

/// amax [heads, rows, cols] becomes scales, in `scale`; a row's channels share one where asked.
void v_scales(const std::uint32_t* amax, std::int64_t heads, std::int64_t rows, std::int32_t cols, bool shared,
              float range, float* scale, cudaStream_t stream);
/// Rounds V to codes in place; `tile` rows share a row of scale [heads, ceil(tokens / tile), cols]. saturated [heads]:
/// added to.
void encode_columns(const Work& x, Format format, std::int64_t tile, const float* scale, unsigned long long* saturated,
                    cudaStream_t stream);
/// Formats without a scale: rounds in place and fills scale [heads, cols] with 1.
void round_columns(const Work& x, Format format, float* scale, cudaStream_t stream);

/// out [q heads]: a query head's own count and that of its key/value head.
void add_counts(const unsigned long long* of_q, const unsigned long long* of_kv, std::int64_t q_heads,
                std::int64_t ratio, std::uint64_t* out, cudaStream_t stream);

}  // namespace sage2::cuda
