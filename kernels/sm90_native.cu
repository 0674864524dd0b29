#include <stdexcept>

#include "kernels/device_buffer.hpp"
#include "kernels/sm90_attention.hpp"
#include "kernels/sm90_native.hpp"
#include "kernels/sm90_tiles.hpp"

namespace sage2::cuda::sm90 {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ std::uint8_t code_byte(float code, bool e4m3) {
  if (!e4m3) return static_cast<std::uint8_t>(static_cast<int>(code));
  std::uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;\n" : "=h"(pair) : "f"(0.0F), "f"(code));
  return static_cast<std::uint8_t>(pair);
}

/// Codes [heads, tokens, depth] into images of `rows` rows; what is beyond is zero. One thread a code.
__global__ void pack_rows(const float* codes, std::int64_t heads, std::int64_t tokens, std::int64_t depth, int tiles,
                          int rows, int dim, bool e4m3, std::uint8_t* out) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t total = heads * tiles * rows * dim;
  if (i >= total) return;
  const int channel = static_cast<int>(i % dim);
  const std::int64_t line = i / dim;  // over heads and padded rows
  const int row = static_cast<int>(line % rows);
  const std::int64_t tile = line / rows;  // over heads
  const std::int64_t head = tile / tiles;
  const std::int64_t at = tile % tiles * rows + row;
  const float code = at < tokens && channel < depth ? codes[(head * tokens + at) * depth + channel] : 0.0F;
  out[tile * rows * dim + qk_offset(rows, dim, row, channel)] = code_byte(code, e4m3);
}

/// Codes of V [heads, tokens, count] into images of V^T.
__global__ void pack_values(const float* codes, std::int64_t heads, std::int64_t tokens, std::int64_t count, int tiles,
                            int dim, std::uint8_t* out) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= heads * tiles * kTileKeys * dim) return;
  const int channel = static_cast<int>(i % dim);
  const std::int64_t line = i / dim;
  const int key = static_cast<int>(line % kTileKeys);
  const std::int64_t tile = line / kTileKeys;
  const std::int64_t at = tile % tiles * kTileKeys + key;
  const float code = at < tokens && channel < count ? codes[(tile / tiles * tokens + at) * count + channel] : 0.0F;
  out[tile * kTileKeys * dim + v_offset(key, channel)] = code_byte(code, true);
}

/// Lines [lines, from] into [lines, to], padded with zeros.
__global__ void pad_lines(const float* in, std::int64_t lines, std::int64_t from, std::int64_t to, float* out) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < lines * to) out[i] = i % to < from ? in[i / to * from + i % to] : 0.0F;
}

/// A scale a key into one for each t of a tile: keys 8i + 2t and 8i + 2t + 1 share it.
__global__ void gather_k_scales(const float* scale, std::int64_t heads, std::int64_t tokens, int tiles, float* out) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= heads * tiles * 4) return;
  const std::int64_t tile = i / 4;
  const std::int64_t key = tile % tiles * kTileKeys + 2 * (i % 4);
  out[i] = key < tokens ? scale[tile / tiles * tokens + key] : 0.0F;
}

__global__ void add_counts(const unsigned long long* from, std::int64_t heads, LoopCounts* to) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= heads) return;
  to[i].p_underflow += from[3 * i];
  to[i].p_total += from[3 * i + 1];
  to[i].saturated += from[3 * i + 2];
}

unsigned blocks(std::int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

}  // namespace

bool supports(const Variant& v, std::int64_t head_dim) {
  if (v.p != Format::e4m3 || v.v != Format::e4m3 || v.v_gran == VGran::per_block || v.v_outliers == VOutliers::split) {
    return false;
  }
  const bool integer = is_integer(v.q) && is_integer(v.k);
  const bool fp32 = v.pv_accum == PvAccum::fp32 || v.pv_accum == PvAccum::fp32_fp32;
  if (v.geometry.k_tile == 64) {
    return integer && (fp32 || v.pv_accum == PvAccum::fp32_fp16) && (v.arch == Arch::ada || v.arch == Arch::hopper) &&
           head_dim <= 128;
  }
  const bool e4m3 = v.q == Format::e4m3 && v.k == Format::e4m3 && v.qk_accum == QkAccum::fp32 && !v.smooth_q;
  return (integer || e4m3) && fp32 && v.qk_gran != QkGran::per_token && v.arch == Arch::hopper &&
         v.geometry.k_tile == kTileKeys && head_dim <= 256;
}

void attend(const DeviceProblem& problem, const Variant& variant, const DeviceOperands& operands, float* o,
            LoopCounts* counts, cudaStream_t stream) {
  AttentionParams a{};
  set_shape(a, problem);
  const bool e4m3 = variant.q == Format::e4m3;
  const std::int64_t q_count = problem.q_count();
  const std::int64_t kv_count = problem.kv_count();
  // Wide enough for a Hadamard transform too, which pads to the next power of two.
  const int dim = padded_head_dim(a.head_dim);
  const auto& v = operands.v.front();
  const std::int64_t q_rows = static_cast<std::int64_t>(a.q_tiles) * kTileRows;
  const std::int64_t keys = static_cast<std::int64_t>(a.k_tiles) * kTileKeys;
  const auto step_keys = static_cast<int>(variant.geometry.k_tile);
  const bool scale_a_key = step_keys != kTileKeys;
  // The kernel reads dS for whole tiles of 128 keys; the quantiser pads to the geometry's.
  const bool pad_delta = variant.smooth_q && operands.k.tokens != keys;

  DeviceBuffer<std::uint8_t> q_image(q_count * q_rows * dim, stream);
  DeviceBuffer<std::uint8_t> k_image(kv_count * keys * dim, stream);
  DeviceBuffer<std::uint8_t> v_image(kv_count * keys * dim, stream);
  DeviceBuffer<float> q_scale(q_count * q_rows, stream);
  DeviceBuffer<float> k_scale(kv_count * (scale_a_key ? keys : 4 * a.k_tiles), stream);
  DeviceBuffer<float> v_scale(kv_count * dim, stream);
  DeviceBuffer<float> v_mean(operands.v_mean.empty() ? 0 : kv_count * dim, stream);
  const std::int64_t delta_lines = static_cast<std::int64_t>(q_count) * a.q_blocks;
  DeviceBuffer<float> delta_s(pad_delta ? delta_lines * keys : 0, stream);
  DeviceBuffer<int> next_tile(1, stream);
  DeviceBuffer<unsigned long long> events(counts != nullptr ? 3 * q_count : 0, stream);
  next_tile.zero();
  events.zero();
  pack_rows<<<blocks(q_count * q_rows * dim), kThreads, 0, stream>>>(operands.q.codes.data(), q_count,
                                                                     operands.q.tokens, operands.q.depth, a.q_tiles,
                                                                     kTileRows, dim, e4m3, q_image.data());
  SAGE2_CUDA_CHECK_LAUNCH(pack_rows);
  pack_rows<<<blocks(kv_count * keys * dim), kThreads, 0, stream>>>(operands.k.codes.data(), kv_count,
                                                                    operands.k.tokens, operands.k.depth, a.k_tiles,
                                                                    kTileKeys, dim, e4m3, k_image.data());
  SAGE2_CUDA_CHECK_LAUNCH(pack_rows);
  pack_values<<<blocks(kv_count * keys * dim), kThreads, 0, stream>>>(v.codes.data(), kv_count, v.tokens, v.count,
                                                                      a.k_tiles, dim, v_image.data());
  SAGE2_CUDA_CHECK_LAUNCH(pack_values);
  pad_lines<<<blocks(q_count * q_rows), kThreads, 0, stream>>>(operands.q.scale.data(), q_count, operands.q.tokens,
                                                               q_rows, q_scale.data());
  SAGE2_CUDA_CHECK_LAUNCH(pad_lines);
  if (scale_a_key) {
    pad_lines<<<blocks(kv_count * keys), kThreads, 0, stream>>>(operands.k.scale.data(), kv_count, operands.k.tokens,
                                                                keys, k_scale.data());
    SAGE2_CUDA_CHECK_LAUNCH(pad_lines);
  } else {
    gather_k_scales<<<blocks(kv_count * a.k_tiles * 4), kThreads, 0, stream>>>(
        operands.k.scale.data(), kv_count, operands.k.tokens, a.k_tiles, k_scale.data());
    SAGE2_CUDA_CHECK_LAUNCH(gather_k_scales);
  }
  pad_lines<<<blocks(kv_count * dim), kThreads, 0, stream>>>(v.scale.data(), kv_count, v.count, dim, v_scale.data());
  SAGE2_CUDA_CHECK_LAUNCH(pad_lines);
  if (!operands.v_mean.empty()) {
    pad_lines<<<blocks(kv_count * dim), kThreads, 0, stream>>>(operands.v_mean.data(), kv_count, a.head_dim, dim,
                                                               v_mean.data());
    SAGE2_CUDA_CHECK_LAUNCH(pad_lines);
  }
  if (pad_delta) {
    pad_lines<<<blocks(delta_lines * keys), kThreads, 0, stream>>>(operands.delta_s.data(), delta_lines,
                                                                   operands.k.tokens, keys, delta_s.data());
    SAGE2_CUDA_CHECK_LAUNCH(pad_lines);
  }
  a.q = q_image.data();
  a.k = k_image.data();
  a.v = v_image.data();
  a.q_scale = q_scale.data();
  a.k_scale = k_scale.data();
  a.v_scale = v_scale.data();
  a.v_mean = operands.v_mean.empty() ? nullptr : v_mean.data();
  a.delta_s = operands.delta_s.empty() ? nullptr : (pad_delta ? delta_s.data() : operands.delta_s.data());
  a.group = variant.arch == Arch::ada ? 16 : 32;
  a.o = o;
  a.o_type = OutType::fp32;
  a.counts = events.empty() ? nullptr : events.data();
  a.next_tile = next_tile.data();
  KernelChoice choice;
  choice.e4m3_codes = e4m3;
  choice.smooth_q = variant.smooth_q;
  choice.pv_accum = variant.pv_accum;
  choice.keys = step_keys;
  choice.accurate = true;
  attention(a, choice, stream);
  if (counts != nullptr) {
    add_counts<<<blocks(q_count), kThreads, 0, stream>>>(events.data(), q_count, counts);
    SAGE2_CUDA_CHECK_LAUNCH(add_counts);
  }
}

}  // namespace sage2::cuda::sm90
