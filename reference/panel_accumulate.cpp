#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "reference/formats.hpp"
#include "reference/panel.hpp"
#include "reference/simd.hpp"

namespace sage2 {
namespace {

using namespace simd;

constexpr int kHalves = 2;     // 16-row vectors in a strip
constexpr int kColumns = 4;    // columns of B whose accumulators stay in registers
constexpr int kChunk = 8;      // products whose sum of 27-bit terms still fits 32 bits
constexpr int kLeastE = -100;  // below every exponent that occurs; keeps the scales normal numbers

/// 2^e for -126 <= e <= 127.
Floats power_of_two(Ints e) {
  return as_floats((e + 127) << 23);
}

/// Eight rows of an exact sum (an integer times `unit`) in the accumulator's own format.
template <int kOut, bool kHalfOut>
[[gnu::always_inline]] inline Floats8 deliver(Doubles sum, Floats8 unit) {
  Doubles value = sum * __builtin_convertvector(unit, Doubles);
  if constexpr (kHalfOut) {
    // round_to_fraction of formats.hpp, in FP64: 52 - 10 bits are pushed out.
    const Doubles power = as_doubles(as_longs(value) & (Longs{} + 0x7FF0000000000000));
    const Doubles magic = larger(power, Doubles{} + 0x1p-14) * (1.5 * 0x1p42);
    value = (value + magic) - magic;
    const Doubles inf = Doubles{} + std::numeric_limits<double>::infinity();
    value = value > 65504.0 ? inf : (value < -65504.0 ? -inf : value);
  } else {
    value = as_doubles(as_longs(value) & (Longs{} - (std::int64_t{1} << (52 - kOut))));
  }
  return __builtin_convertvector(value, Floats8);
}

/// The accumulator with its exact sum held in integers: int32 where the whole group fits (fraction 13), otherwise
/// chunks of int32 that are added in FP64.
template <int kGroup, int kFraction, int kOut, bool kHalfOut>
struct Narrow {
  static constexpr bool kFits = kFraction <= 20;
  static constexpr int kStep = kFits ? kGroup : kChunk;

  template <int kWidth>
  static void columns(std::size_t depth, const float* a, const std::int8_t* a_exponent, PanelView<float> b,
                      PanelView<std::int8_t> b_exponent, float* c) {
    Floats acc[kColumns][kHalves];
    for (int j = 0; j < kWidth; ++j) {
      for (int h = 0; h < kHalves; ++h) acc[j][h] = load<Floats>(c + at(j, h));
    }
    for (std::size_t k0 = 0; k0 < depth; k0 += kGroup) {
      group<kWidth>(a + k0 * kStrip, a_exponent + k0 * kStrip, {b.data + k0 * b.stride_k, b.stride_k, b.stride_n},
                    {b_exponent.data + k0 * b_exponent.stride_k, b_exponent.stride_k, b_exponent.stride_n}, acc);
    }
    for (int j = 0; j < kWidth; ++j) {
      for (int h = 0; h < kHalves; ++h) store(c + at(j, h), acc[j][h]);
    }
  }

  static constexpr std::size_t at(int j, int h) {
    return static_cast<std::size_t>(j) * kStrip + static_cast<std::size_t>(h) * 16;
  }

  template <int kWidth>
  [[gnu::always_inline]] static void group(const float* a, const std::int8_t* a_exponent, PanelView<float> b,
                                           PanelView<std::int8_t> b_exponent, Floats (&acc)[kColumns][kHalves]) {
    Floats scale[kColumns][kHalves];
    Floats unit[kColumns][kHalves];
    for (int j = 0; j < kWidth; ++j) {
      Bytes largest = Bytes{} + static_cast<std::int8_t>(-128);
      for (int k = 0; k < kGroup; ++k) {
        const auto e = load<Bytes>(a_exponent + static_cast<std::size_t>(k) * kStrip) +
                       b_exponent.data[static_cast<std::size_t>(k) * b_exponent.stride_k +
                                       static_cast<std::size_t>(j) * b_exponent.stride_n];
        largest = larger(e, largest);
      }
      for (int h = 0; h < kHalves; ++h) {
        const Ints product = __builtin_convertvector(h == 0 ? low(largest) : high(largest), Ints);
        Ints own = ((as_ints(acc[j][h]) >> 23) & 0xFF) - 127;
        // A subnormal C enters with the least exponent of its format; that of FP32 is below every product.
        if constexpr (kHalfOut) own = own > -127 ? larger(own, Ints{} - 14) : own;
        const Ints e = larger(larger(product, own), Ints{} + kLeastE);
        scale[j][h] = power_of_two(kFraction - e);
        unit[j][h] = power_of_two(e - kFraction);
      }
    }
    if constexpr (kFits) {
      sum_small<kWidth>(a, b, scale, unit, acc);
    } else {
      sum_large<kWidth>(a, b, scale, unit, acc);
    }
  }

  /// Adds the truncated terms of products k0 .. k0 + kStep - 1. Scaling by a power of two is exact; the conversion to
  /// an integer truncates toward zero, which is what the hardware does.
  template <int kWidth>
  [[gnu::always_inline]] static void add_terms(int k0, const float* a, PanelView<float> b,
                                               const Floats (&scale)[kColumns][kHalves],
                                               Ints (&sum)[kColumns][kHalves]) {
    for (int k = k0; k < k0 + kStep; ++k) {
      const float* const row = a + static_cast<std::size_t>(k) * kStrip;
      for (int j = 0; j < kWidth; ++j) {
        const float scalar =
            b.data[static_cast<std::size_t>(k) * b.stride_k + static_cast<std::size_t>(j) * b.stride_n];
        for (int h = 0; h < kHalves; ++h) {
          sum[j][h] = wrapping_add(sum[j][h],
                                   __builtin_convertvector((load<Floats>(row + h * 16) * scalar) * scale[j][h], Ints));
        }
      }
    }
  }

  template <int kWidth>
  [[gnu::always_inline]] static void sum_small(const float* a, PanelView<float> b,
                                               const Floats (&scale)[kColumns][kHalves],
                                               const Floats (&unit)[kColumns][kHalves],
                                               Floats (&acc)[kColumns][kHalves]) {
    Ints sum[kColumns][kHalves];
    for (int j = 0; j < kWidth; ++j) {
      for (int h = 0; h < kHalves; ++h) sum[j][h] = __builtin_convertvector(acc[j][h] * scale[j][h], Ints);
    }
    add_terms<kWidth>(0, a, b, scale, sum);
    for (int j = 0; j < kWidth; ++j) {
      for (int h = 0; h < kHalves; ++h) {
        // Below 2^24, so the conversion is exact.
        const Floats value = __builtin_convertvector(sum[j][h], Floats) * unit[j][h];
        if constexpr (kHalfOut) {
          acc[j][h] = keep_infinite(acc[j][h], round_half_vector(value));
        } else {
          acc[j][h] = as_floats(as_ints(value) & ~((1 << (23 - kOut)) - 1));
        }
      }
    }
  }

  template <int kWidth>
  [[gnu::always_inline]] static void sum_large(const float* a, PanelView<float> b,
                                               const Floats (&scale)[kColumns][kHalves],
                                               const Floats (&unit)[kColumns][kHalves],
                                               Floats (&acc)[kColumns][kHalves]) {
    Doubles total[kColumns][kHalves][2] = {};
    for (int k0 = 0; k0 < kGroup; k0 += kStep) {
      Ints sum[kColumns][kHalves] = {};
      if (k0 == 0) {
        for (int j = 0; j < kWidth; ++j) {
          for (int h = 0; h < kHalves; ++h) sum[j][h] = __builtin_convertvector(acc[j][h] * scale[j][h], Ints);
        }
      }
      add_terms<kWidth>(k0, a, b, scale, sum);
      for (int j = 0; j < kWidth; ++j) {
        for (int h = 0; h < kHalves; ++h) {
          total[j][h][0] += __builtin_convertvector(low(sum[j][h]), Doubles);
          total[j][h][1] += __builtin_convertvector(high(sum[j][h]), Doubles);
        }
      }
    }
    for (int j = 0; j < kWidth; ++j) {
      for (int h = 0; h < kHalves; ++h) {
        const Floats value = join(deliver<kOut, kHalfOut>(total[j][h][0], low(unit[j][h])),
                                  deliver<kOut, kHalfOut>(total[j][h][1], high(unit[j][h])));
        acc[j][h] = kHalfOut ? keep_infinite(acc[j][h], value) : value;
      }
    }
  }

  /// round_fp16 for a vector.
  static Floats round_half_vector(Floats x) {
    const Floats power = as_floats(as_ints(x) & 0x7F800000);
    const Floats magic = larger(power, Floats{} + 0x1p-14F) * (1.5F * 0x1p13F);
    const Floats r = (x + magic) - magic;
    const Floats inf = Floats{} + std::numeric_limits<float>::infinity();
    return r > kFp16Max ? inf : (r < -kFp16Max ? -inf : r);
  }

  /// An FP16 accumulator that overflowed stays infinite.
  static Floats keep_infinite(Floats before, Floats after) {
    const Ints finite = (as_ints(before) & 0x7F800000) != 0x7F800000;
    return finite ? after : before;
  }

  static void run(std::size_t depth, std::size_t n, const float* a, const std::int8_t* a_exponent, PanelView<float> b,
                  PanelView<std::int8_t> b_exponent, float* c) {
    for (std::size_t j = 0; j < n; j += kColumns) {
      const PanelView<float> bj{b.data + j * b.stride_n, b.stride_k, b.stride_n};
      const PanelView<std::int8_t> ej{b_exponent.data + j * b_exponent.stride_n, b_exponent.stride_k,
                                      b_exponent.stride_n};
      // A constant width lets the compiler keep every accumulator in a register.
      if (n - j >= kColumns) {
        columns<kColumns>(depth, a, a_exponent, bj, ej, c + j * kStrip);
      } else {
        for (std::size_t i = 0; i < n - j; ++i) {
          columns<1>(depth, a, a_exponent, {bj.data + i * b.stride_n, b.stride_k, b.stride_n},
                     {ej.data + i * b_exponent.stride_n, b_exponent.stride_k, b_exponent.stride_n},
                     c + (j + i) * kStrip);
        }
      }
    }
  }
};

using Kernel = decltype(&Narrow<16, 13, 13, false>::run);

struct Instance {
  AccumulatorModel model;
  Kernel kernel;
};

template <int kGroup, int kFraction, int kOut, bool kHalfOut>
constexpr Instance instance() {
  return {{kGroup, kFraction, kOut, kHalfOut}, &Narrow<kGroup, kFraction, kOut, kHalfOut>::run};
}

/// Every model that accumulator_model can return.
constexpr Instance kInstances[] = {instance<16, 13, 13, false>(), instance<16, 13, 13, true>(),
                                   instance<32, 13, 13, false>(), instance<32, 13, 13, true>(),
                                   instance<32, 25, 23, false>(), instance<32, 25, 23, true>(),
                                   instance<8, 24, 23, false>(),  instance<8, 24, 23, true>(),
                                   instance<16, 25, 23, false>(), instance<16, 25, 23, true>()};

}  // namespace

void accumulate_narrow(const AccumulatorModel& model, std::size_t depth, std::size_t n, const float* a,
                       const std::int8_t* a_exponent, PanelView<float> b, PanelView<std::int8_t> b_exponent, float* c) {
  for (const auto& i : kInstances) {
    if (i.model == model) return i.kernel(depth, n, a, a_exponent, b, b_exponent, c);
  }
  throw std::logic_error("accumulate_narrow: no kernel for this accumulator");
}

void accumulate_wide(const AccumulatorModel& model, std::size_t depth, std::size_t n, const float* a,
                     PanelView<float> b, float* c) {
  const auto group = static_cast<std::size_t>(model.group);
  const auto exponent = [](float x) {
    return static_cast<int>((std::bit_cast<std::uint32_t>(x) >> 23U) & 0xFFU) - 127;
  };
  for (std::size_t j = 0; j < n; ++j) {
    float* const acc = c + j * kStrip;
    for (std::size_t k0 = 0; k0 < depth; k0 += group) {
      int largest[kStrip];
      for (std::size_t r = 0; r < kStrip; ++r) {
        // A subnormal C enters with the least exponent of its format.
        largest[r] = model.half ? -300 : kLeastSumExponent;
        if (acc[r] != 0) largest[r] = std::max(exponent(acc[r]), model.half ? -14 : -126);
      }
      for (std::size_t k = k0; k < k0 + group; ++k) {
        const float scalar = b.data[k * b.stride_k + j * b.stride_n];
        if (scalar == 0) continue;
        const int eb = std::max(exponent(scalar), -126);
        for (std::size_t r = 0; r < kStrip; ++r) {
          const float x = a[k * kStrip + r];
          const int e = std::max(exponent(x), -126) + eb;
          largest[r] = x != 0 && e > largest[r] ? e : largest[r];
        }
      }
      double scale[kStrip];
      double sum[kStrip];
      for (std::size_t r = 0; r < kStrip; ++r) {
        // 2^(fraction - E); E lies in -300 .. 256, far inside FP64's exponents.
        scale[r] = std::bit_cast<double>(static_cast<std::int64_t>(model.fraction - largest[r] + 1023) << 52);
        sum[r] = std::trunc(static_cast<double>(acc[r]) * scale[r]);
      }
      for (std::size_t k = k0; k < k0 + group; ++k) {
        const double scalar = b.data[k * b.stride_k + j * b.stride_n];
        for (std::size_t r = 0; r < kStrip; ++r) {
          sum[r] += std::trunc(static_cast<double>(a[k * kStrip + r]) * scalar * scale[r]);
        }
      }
      for (std::size_t r = 0; r < kStrip; ++r) {
        const double value = sum[r] / scale[r];
        const auto keep = ~((std::int64_t{1} << (52 - model.out_fraction)) - 1);
        const double cut = std::bit_cast<double>(std::bit_cast<std::int64_t>(value) & keep);
        // FP16's grid of the value's binade, reached in FP64: a detour through FP32 would round twice.
        const double power = std::bit_cast<double>(std::bit_cast<std::int64_t>(value) & 0x7FF0000000000000);
        const double magic = std::max(power, 0x1p-14) * (1.5 * 0x1p42);
        const double near = (value + magic) - magic;
        const double half = std::fabs(near) > kFp16Max ? std::copysign(INFINITY, value) : near;
        const auto next = static_cast<float>(model.half ? half : cut);
        acc[r] = std::isfinite(acc[r]) ? next : acc[r];
      }
    }
  }
}

void operand_exponents(const float* values, std::size_t count, int least, std::int8_t* exponents) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto raw = static_cast<int>((std::bit_cast<std::uint32_t>(values[i]) >> 23U) & 0xFFU) - 127;
    // Infinities and NaN (128) are dealt with elsewhere, but must fit a byte when two are added.
    const int e = values[i] == 0 ? kZeroExponent : std::clamp(raw, least, 32);
    exponents[i] = static_cast<std::int8_t>(e);
  }
}

}  // namespace sage2
