#include "kernels/quantize.hpp"

#include <algorithm>
#include <bit>
#include <numbers>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "kernels/quantize_steps.hpp"
#include "reference/quantize.hpp"
#include "reference/scale_rules.hpp"

namespace sage2::cuda {
namespace {

using Counts = DeviceBuffer<unsigned long long>;

/// Accumulator groups are at most 32 products long, and tiles a multiple of 32 keys.
constexpr std::int64_t kDepthMultiple = 32;
/// Kernels keep a row of channels in shared memory.
constexpr std::int64_t kWidestHead = 256;

std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

std::size_t size_of(std::int64_t a, std::int64_t b, std::int64_t c = 1) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * static_cast<std::size_t>(c);
}

DeviceBuffer<std::uint32_t> zeroed(std::size_t size, cudaStream_t stream) {
  DeviceBuffer<std::uint32_t> buffer(size, stream);
  buffer.zero();
  return buffer;
}

/// Q or K as FP32 rows that become codes where they are.
Work loaded(const TensorView& from, std::int64_t tokens, std::int64_t depth, DeviceQkOperand& to, cudaStream_t stream) {
  to.tokens = tokens;
  to.depth = depth;
  to.codes = DeviceBuffer<float>(size_of(from.batch * from.heads, tokens, depth), stream);
  to.scale = DeviceBuffer<float>(size_of(from.batch * from.heads, tokens), stream);
  const Work work{to.codes.data(),
                  from.batch * from.heads,
                  from.tokens,
                  tokens,
                  static_cast<std::int32_t>(from.channels),
                  static_cast<std::int32_t>(depth)};
  load_tensor(from, work, stream);
  return work;
}

void encode(const Work& x, Format format, const Variant& variant, bool is_q, float* scale, Counts& saturated,
            cudaStream_t stream) {
  const auto groups = scale_group_count(static_cast<std::size_t>(x.tokens), variant.qk_gran, variant.geometry, is_q);
  const QkRounding how{format, variant.qk_gran, variant.geometry, is_q, static_cast<std::int64_t>(groups)};
  DeviceBuffer<std::uint32_t> amax;
  if (is_scaled(format)) {
    amax = zeroed(size_of(x.heads, how.groups), stream);
    group_amax(x, how, amax.data(), stream);
  }
  encode_rows(x, how, amax.data(), scale, saturated.data(), stream);
}

void quantize_qk(const DeviceProblem& problem, const Variant& variant, DeviceOperands& out, Counts& q_saturated,
                 Counts& kv_saturated, cudaStream_t stream) {
  const std::int64_t channels = problem.q.channels;
  const auto transformed = variant.transform == Transform::hadamard
                               ? static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(channels)))
                               : channels;
  const std::int64_t depth = round_up(transformed, kDepthMultiple);
  Work q = loaded(problem.q, problem.q.tokens, depth, out.q, stream);
  Work k = loaded(problem.k, round_up(problem.k.tokens, variant.geometry.k_tile), depth, out.k, stream);
  if (variant.smooth_k) {
    DeviceBuffer<float> mean(size_of(k.heads, k.cols), stream);
    column_means(k, problem.dtype, mean.data(), stream);
    subtract_means(k, k.tokens, mean.data(), stream);
  }
  if (variant.smooth_q) {
    const auto block = static_cast<std::int64_t>(kSmoothQBlock);
    const std::int64_t blocks = (q.tokens + block - 1) / block;
    DeviceBuffer<float> mean(size_of(q.heads, blocks, q.cols), stream);
    block_means(q, block, mean.data(), stream);
    subtract_means(q, block, mean.data(), stream);
    out.delta_s = DeviceBuffer<float>(size_of(q.heads, blocks, k.padded), stream);
    delta_scores(mean.data(), q.heads, blocks, k, static_cast<double>(problem.sm_scale) * std::numbers::log2e,
                 out.delta_s.data(), stream);
  }
  if (variant.transform == Transform::hadamard) {
    hadamard_rows(q, stream);
    hadamard_rows(k, stream);
    q.cols = k.cols = static_cast<std::int32_t>(transformed);
  } else if (variant.transform == Transform::smoothattn) {
    auto amax = zeroed(size_of(k.heads, k.cols), stream);
    column_amax(k, k.tokens, amax.data(), stream);
    scale_by_lambda(k, amax.data(), 1, true, stream);
    scale_by_lambda(q, amax.data(), q.heads / k.heads, false, stream);
  }
  encode(q, variant.q, variant, true, out.q.scale.data(), q_saturated, stream);
  encode(k, variant.k, variant, false, out.k.scale.data(), kv_saturated, stream);
}

/// An empty part of V and its working matrix.
Work new_part(const Work& v, std::int32_t count, Format format, DeviceVOperand& part, cudaStream_t stream) {
  part.format = format;
  part.tokens = v.padded;
  part.count = count;
  part.channels = DeviceBuffer<std::uint32_t>(size_of(v.heads, count), stream);
  part.codes = DeviceBuffer<float>(size_of(v.heads, v.padded, count), stream);
  return {part.codes.data(), v.heads, v.tokens, v.padded, count, count};
}

/// Values of a part become its codes.
void encode_part(const Work& x, const Variant& variant, DeviceVOperand& part, Counts& saturated, cudaStream_t stream) {
  if (!is_scaled(part.format)) {
    part.scale = DeviceBuffer<float>(size_of(x.heads, x.cols), stream);
    return round_columns(x, part.format, part.scale.data(), stream);
  }
  const std::int64_t tile = variant.v_gran == VGran::per_block ? variant.geometry.k_tile : x.tokens;
  part.scale_rows = (x.tokens + tile - 1) / tile;
  part.scale = DeviceBuffer<float>(size_of(x.heads, part.scale_rows, x.cols), stream);
  auto amax = zeroed(part.scale.size(), stream);
  column_amax(x, tile, amax.data(), stream);
  v_scales(amax.data(), x.heads, part.scale_rows, x.cols, variant.v_gran != VGran::per_channel, v_range(variant),
           part.scale.data(), stream);
  encode_columns(x, part.format, tile, part.scale.data(), saturated.data(), stream);
}

void remove_outliers(const Work& v, VOutliers how, cudaStream_t stream) {
  DeviceBuffer<double2> band(size_of(v.heads, v.cols), stream);
  three_sigma_bands(v, band.data(), stream);
  if (how == VOutliers::clip) {
    clip_to_bands(v, band.data(), stream);
  } else {
    replace_by_median(v, band.data(), stream);
  }
}

/// The outlier channels and the rest as two parts; one where nothing is left of the rest.
void split_channels(const Work& v, const Variant& variant, DeviceOperands& out, Counts& saturated,
                    cudaStream_t stream) {
  const std::int32_t outliers = std::max(1, v.cols / 16);
  auto amax = zeroed(size_of(v.heads, v.cols), stream);
  column_amax(v, v.tokens, amax.data(), stream);
  DeviceVOperand rest;
  DeviceVOperand kept;
  const Work rest_work = new_part(v, v.cols - outliers, variant.v, rest, stream);
  const Work kept_work = new_part(v, outliers, Format::fp16, kept, stream);
  choose_outliers(amax.data(), v.heads, v.cols, outliers, rest.channels.data(), kept.channels.data(), stream);
  if (rest.count > 0) {
    gather_columns(v, rest.channels.data(), rest_work, stream);
    encode_part(rest_work, variant, rest, saturated, stream);
    out.v.push_back(std::move(rest));
  }
  gather_columns(v, kept.channels.data(), kept_work, stream);
  encode_part(kept_work, variant, kept, saturated, stream);
  out.v.push_back(std::move(kept));
}

void quantize_v(const DeviceProblem& problem, const Variant& variant, DeviceOperands& out, Counts& saturated,
                cudaStream_t stream) {
  const auto cols = static_cast<std::int32_t>(problem.v.channels);
  const std::int64_t padded = round_up(problem.v.tokens, variant.geometry.k_tile);
  Work v{nullptr, problem.kv_count(), problem.v.tokens, padded, cols, cols};
  DeviceVOperand whole;
  v = new_part(v, cols, variant.v, whole, stream);
  load_tensor(problem.v, v, stream);
  if (variant.smooth_v) {
    out.v_mean = DeviceBuffer<float>(size_of(v.heads, cols), stream);
    column_means(v, DType::float32, out.v_mean.data(), stream);
    subtract_means(v, v.tokens, out.v_mean.data(), stream);
  }
  if (variant.v_outliers == VOutliers::split) return split_channels(v, variant, out, saturated, stream);
  if (variant.v_outliers != VOutliers::none) remove_outliers(v, variant.v_outliers, stream);
  all_channels(v.heads, cols, whole.channels.data(), stream);
  encode_part(v, variant, whole, saturated, stream);
  out.v.push_back(std::move(whole));
}

}  // namespace

DeviceOperands quantize(const DeviceProblem& problem, const Variant& variant, cudaStream_t stream) {
  if (problem.q.channels > kWidestHead || problem.v.channels > kWidestHead) {
    throw DeviceError(fmt::format("head dim {}: the CUDA engine takes up to {}",
                                  std::max(problem.q.channels, problem.v.channels), kWidestHead));
  }
  DeviceOperands out;
  Counts q_saturated(size_of(problem.q_count(), 1), stream);
  Counts kv_saturated(size_of(problem.kv_count(), 1), stream);
  q_saturated.zero();
  kv_saturated.zero();
  quantize_qk(problem, variant, out, q_saturated, kv_saturated, stream);
  quantize_v(problem, variant, out, kv_saturated, stream);
  out.saturated = DeviceBuffer<std::uint64_t>(size_of(problem.q_count(), 1), stream);
  add_counts(q_saturated.data(), kv_saturated.data(), problem.q_count(), problem.q_count() / problem.kv_count(),
             out.saturated.data(), stream);
  return out;
}

}  // namespace sage2::cuda
