#pragma once

#include <cstdint>

/// Vector types of GCC and Clang: 64 bytes, lowered to what the machine has. They are used only inside functions that
/// are inlined, since their passing conventions differ between instruction sets.
namespace sage2::simd {

using Floats = float __attribute__((vector_size(64)));        // 16 lanes
using Ints = std::int32_t __attribute__((vector_size(64)));   // 16 lanes
using Doubles = double __attribute__((vector_size(64)));      // 8 lanes
using Longs = std::int64_t __attribute__((vector_size(64)));  // 8 lanes
using Bytes = std::int8_t __attribute__((vector_size(32)));   // 32 lanes
using Bytes16 = std::int8_t __attribute__((vector_size(16)));
using Ints8 = std::int32_t __attribute__((vector_size(32)));
using Floats8 = float __attribute__((vector_size(32)));

/// The vector of `V`'s shape that may be read and written anywhere. (A copy by memcpy would pass through the stack.)
template <class V>
struct Anywhere;
template <>
struct Anywhere<Floats> {
  using Type = float __attribute__((vector_size(64), aligned(1), may_alias));
};
template <>
struct Anywhere<Doubles> {
  using Type = double __attribute__((vector_size(64), aligned(1), may_alias));
};
template <>
struct Anywhere<Bytes> {
  using Type = std::int8_t __attribute__((vector_size(32), aligned(1), may_alias));
};

template <class V, class T>
[[gnu::always_inline]] inline V load(const T* from) {
  return *reinterpret_cast<const typename Anywhere<V>::Type*>(from);
}

template <class V, class T>
[[gnu::always_inline]] inline void store(T* to, V v) {
  *reinterpret_cast<typename Anywhere<V>::Type*>(to) = v;
}

// The bits of one vector as another of the same size.
[[gnu::always_inline]] inline Ints as_ints(Floats x) {
  return reinterpret_cast<Ints>(x);
}
[[gnu::always_inline]] inline Floats as_floats(Ints x) {
  return reinterpret_cast<Floats>(x);
}
[[gnu::always_inline]] inline Longs as_longs(Doubles x) {
  return reinterpret_cast<Longs>(x);
}
[[gnu::always_inline]] inline Doubles as_doubles(Longs x) {
  return reinterpret_cast<Doubles>(x);
}

// Halves of a vector, and back.
[[gnu::always_inline]] inline Bytes16 low(Bytes x) {
  return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
[[gnu::always_inline]] inline Bytes16 high(Bytes x) {
  return __builtin_shufflevector(x, x, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
}
[[gnu::always_inline]] inline Ints8 low(Ints x) {
  return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7);
}
[[gnu::always_inline]] inline Ints8 high(Ints x) {
  return __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
}
[[gnu::always_inline]] inline Floats8 low(Floats x) {
  return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7);
}
[[gnu::always_inline]] inline Floats8 high(Floats x) {
  return __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
}
[[gnu::always_inline]] inline Floats join(Floats8 a, Floats8 b) {
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

/// Sum modulo 2^32: a NaN converts to the least integer, and what is added to that must not be undefined.
[[gnu::always_inline]] inline Ints wrapping_add(Ints a, Ints b) {
  using Unsigned = std::uint32_t __attribute__((vector_size(64)));
  return reinterpret_cast<Ints>(reinterpret_cast<Unsigned>(a) + reinterpret_cast<Unsigned>(b));
}

template <class V>
[[gnu::always_inline]] inline V larger(V a, V b) {
  return a > b ? a : b;
}

}  // namespace sage2::simd
