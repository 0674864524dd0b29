#include "kernels/accumulator_probe_parts.hpp"
#include "kernels/cuda_check.hpp"

namespace sage2::cuda::probe {
namespace {

__device__ std::uint64_t mixed(std::uint64_t x) {  // splitmix64
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31U);
}

/// How a tile's words are made. The first are for one operand each, the last for C.
enum WordStyle : std::uint32_t { all, narrow, subnormal, sparse, like_p, like_v };
enum CStyle : std::uint32_t { zero, chained, nearby, cancelling_c, large, any, tiny, chained_too };

struct TileStyle {
  std::uint64_t key;
  std::uint32_t a, b, c;
  bool cancelling;  ///< products come in pairs of opposite signs, some of which differ in a last bit
  bool extreme;     ///< BF16 over all exponents, beyond FP32's range
};

__device__ TileStyle style_of(std::uint64_t seed, int tile) {
  TileStyle s{};
  s.key = mixed(seed + mixed(static_cast<std::uint64_t>(tile)));
  const auto r = static_cast<std::uint32_t>(s.key);
  s.extreme = r % 8 == 7;
  s.c = r / 8 % 8;
  s.cancelling = r / 64 % 4 == 0;
  s.a = r / 256 % 6;
  s.b = r / 4096 % 6;
  if (r / 65536 % 4 == 0) {  // attention
    s.a = like_p;
    s.b = like_v;
    s.cancelling = false;
  }
  return s;
}

__device__ int clamped(int x, int least, int most) {
  return x < least ? least : (x > most ? most : x);
}

/// One word of a format. `row_key` is the same for all words of a row.
__device__ std::uint32_t random_word(WordFormat f, std::uint32_t style, bool extreme, std::uint64_t row_key,
                                     std::uint64_t key, std::uint64_t tile_key, bool is_b) {
  const int highest = (1 << f.exponent_bits) - 1 - (f.has_infinity ? 1 : 0);
  const bool wide = f.exponent_bits == 8 && !extreme;
  const int lo = wide ? 127 - 50 : 0;
  const int hi = wide ? 127 + 50 : highest;
  const auto r = static_cast<std::uint32_t>(key >> 32U);
  std::uint32_t sign = static_cast<std::uint32_t>(key) & 1U;
  auto mantissa = static_cast<std::uint32_t>(key >> 1U) & ((1U << f.mantissa_bits) - 1U);
  const int decay = __clz(static_cast<int>(r | 1U));
  int exponent = lo + static_cast<int>(r % static_cast<std::uint32_t>(hi - lo + 1));
  switch (style) {
    case narrow: {
      const auto base = static_cast<int>(row_key % static_cast<std::uint64_t>(hi - lo + 1));
      const auto width = static_cast<std::uint32_t>(row_key >> 40U) % 4 + 1;
      exponent = clamped(lo + base + static_cast<int>(r % width), lo, hi);
      break;
    }
    case subnormal:
      exponent = static_cast<int>(r % 2);
      break;
    case sparse:
      if (r / 512 % 4 != 0) return sign << (f.bits() - 1);
      break;
    case like_p:  // positive, most of them far below the row's maximum
      sign = 0;
      exponent = clamped((f.exponent_bits < 8 && f.mantissa_bits < 10 ? highest : f.bias()) -
                             decay * static_cast<int>(row_key % 4 + 1),
                         0, highest);
      break;
    case like_v:
      exponent = clamped((f.mantissa_bits < 7 ? highest : f.bias() + 2) - decay, 0, highest);
      break;
    default:
      break;
  }
  if (extreme && f.exponent_bits == 8 && tile_key / 1024 % 2 == 0) {
    // Products about as small as FP32's subnormals.
    const auto base = static_cast<int>(tile_key / 4096 % 100);
    exponent = (is_b ? 112 - base : 10 + base) + static_cast<int>(r % 8);
  }
  if (!f.has_infinity && exponent == highest && mantissa + 1 == 1U << f.mantissa_bits) --mantissa;  // NaN
  return (sign << (f.bits() - 1)) | (static_cast<std::uint32_t>(exponent) << f.mantissa_bits) | mantissa;
}

__device__ void store_word(std::uint8_t* matrix, WordFormat f, int row, int k, std::uint32_t word) {
  const int size = f.bits() / 8;
  for (int i = 0; i < size; ++i) matrix[byte_at(row, k * size + i)] = static_cast<std::uint8_t>(word >> (8 * i));
}
__device__ std::uint16_t load_word(const std::uint8_t* matrix, WordFormat f, int row, int k) {
  const int size = f.bits() / 8;
  std::uint32_t word = 0;
  for (int i = 0; i < size; ++i) word |= static_cast<std::uint32_t>(matrix[byte_at(row, k * size + i)]) << (8 * i);
  return static_cast<std::uint16_t>(word);
}

__device__ void fill_operand(std::uint8_t* matrix, WordFormat f, std::uint32_t style, const TileStyle& tile,
                             bool is_b) {
  const int depth = kBytes * 8 / f.bits();
  for (int i = static_cast<int>(threadIdx.x); i < kRows * depth; i += kThreads) {
    const int row = i / depth;
    const int k = i % depth;
    const std::uint64_t row_key = mixed(tile.key + static_cast<std::uint64_t>(row * 2 + (is_b ? 1 : 0)) * 77773);
    const bool repeats = tile.cancelling && k % 2 == 1;
    std::uint32_t word =
        random_word(f, style, tile.extreme, row_key, mixed(row_key + (repeats ? k - 1 : k)), tile.key, is_b);
    if (repeats && is_b) {
      word ^= 1U << (f.bits() - 1);
      const std::uint64_t r = mixed(row_key + 1000 + k);
      if (r % 8 == 0 && (word & 1U) != 0) word ^= 1U;
    }
    store_word(matrix, f, row, k, word);
  }
}

__device__ void words_of(const Tile& tile, const Instruction& what, int row, int col, int depth, std::uint16_t* a,
                         std::uint16_t* b) {
  for (int k = 0; k < depth; ++k) {
    a[k] = load_word(tile.a, what.a, row, k);
    b[k] = load_word(tile.b, what.b, col, k);
  }
}

__device__ std::uint32_t model_of(const Tile& tile, const Instruction& what, const WordModel& model, int at,
                                  std::uint32_t c, std::uint16_t* a, std::uint16_t* b) {
  const int depth = kBytes * 8 / what.a.bits();
  words_of(tile, what, at / kCols, at % kCols, depth, a, b);
  return accumulate_words(model, what.a, a, what.b, b, depth, c);
}

__device__ bool finite(std::uint32_t c, bool half) {
  return half ? (c & 0x7C00U) != 0x7C00U : (c & 0x7F800000U) != 0x7F800000U;
}

/// A finite number of the accumulator's format with an exponent field in [lo, hi].
__device__ std::uint32_t random_c(bool half, int lo, int hi, std::uint64_t r) {
  const auto exponent =
      static_cast<std::uint32_t>(lo) + static_cast<std::uint32_t>(r >> 33U) % static_cast<std::uint32_t>(hi - lo + 1);
  const auto bits = static_cast<std::uint32_t>(r);
  return half ? ((bits & 0x8000U) | (exponent << 10U) | (bits & 0x3FFU))
              : ((bits & 0x80000000U) | (exponent << 23U) | (bits & 0x7FFFFFU));
}

__global__ void __launch_bounds__(kThreads)
    fill(Tile* tiles, Sums* sums, const Sums* previous, Instruction what, WordModel model, std::uint64_t seed) {
  const auto t = static_cast<int>(blockIdx.x);
  const TileStyle style = style_of(seed, t);
  fill_operand(tiles[t].a, what.a, style.a, style, false);
  fill_operand(tiles[t].b, what.b, style.b, style, true);
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kCols; i += kThreads) {
    const std::uint64_t r = mixed(style.key + 555 + static_cast<std::uint64_t>(i) * 31337);
    std::uint32_t c = 0;
    switch (style.c) {
      case zero:
        c = r % 16 == 0 ? (what.half ? 0x8000U : 0x80000000U) : 0;
        break;
      case nearby:
        c = what.half ? random_c(true, 0, 30, r) : random_c(false, 127 - 30, 127 + 30, r);
        break;
      case cancelling_c: {  // C is close to minus the sum of the products
        std::uint16_t a[32];
        std::uint16_t b[32];
        c = model_of(tiles[t], what, model, i, 0, a, b) ^ (what.half ? 0x8000U : 0x80000000U);
        if (r % 4 != 0) c ^= static_cast<std::uint32_t>(r >> 8U) & (what.half ? 0x7U : 0xFFFU);
        if (!finite(c, what.half)) c = 0;
        break;
      }
      case large:
        c = what.half ? random_c(true, 24, 30, r) : random_c(false, 127 + 8, 127 + 40, r);
        break;
      case any:
        c = what.half ? random_c(true, 0, 30, r) : random_c(false, 0, 254, r);
        break;
      case tiny:
        c = what.half ? random_c(true, 0, 2, r) : random_c(false, 127 - 60, 127 - 8, r);
        break;
      default:
        c = previous != nullptr ? previous[t].c[i] : 0;
        if (!finite(c, what.half)) c = 0;
        break;
    }
    sums[t].c[i] = c;
  }
}

__global__ void __launch_bounds__(kThreads)
    compare(const Tile* tiles, const Sums* c, const Sums* d, Instruction what, WordModel model, Findings* findings) {
  const auto t = static_cast<int>(blockIdx.x);
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kCols; i += kThreads) {
    Mismatch m{c[t].c[i], d[t].c[i], 0, {}, {}};
    m.model = model_of(tiles[t], what, model, i, m.c, m.a, m.b);
    if (m.model == m.hardware) continue;
    atomicAdd(&findings->mismatches, 1ULL);
    const unsigned int slot = atomicAdd(&findings->kept, 1U);
    if (slot < kKept) findings->first[slot] = m;
  }
}

}  // namespace

void fill_tiles(Tile* tiles, Sums* c, const Sums* previous, int count, const Instruction& what, const WordModel& model,
                std::uint64_t seed, cudaStream_t stream) {
  fill<<<count, kThreads, 0, stream>>>(tiles, c, previous, what, model, seed);
  SAGE2_CUDA_CHECK_LAUNCH(fill);
}

void judge(const Tile* tiles, const Sums* c, const Sums* d, int count, const Instruction& what, const WordModel& model,
           Findings* findings, cudaStream_t stream) {
  compare<<<count, kThreads, 0, stream>>>(tiles, c, d, what, model, findings);
  SAGE2_CUDA_CHECK_LAUNCH(compare);
}

}  // namespace sage2::cuda::probe
