// Functions of whole vectors, float32 in arithmetic and float32 or bfloat16 in memory, at the width
// this file is compiled for.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "bfloat16.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace crucible::vectors {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

using Floats = float __attribute__((vector_size(4 * kWidth)));
using Ints = std::int32_t __attribute__((vector_size(4 * kWidth)));
using Words = std::uint32_t __attribute__((vector_size(4 * kWidth)));
using Halves = std::uint16_t __attribute__((vector_size(2 * kWidth)));

#define CRUCIBLE_INLINE inline __attribute__((always_inline))

CRUCIBLE_INLINE Floats all(float x) { return Floats{} + x; }

// 0, 1, 2, ...
template <int... kLane>
CRUCIBLE_INLINE Ints lanes(std::integer_sequence<int, kLane...>) {
  return Ints{kLane...};
}
CRUCIBLE_INLINE Ints lanes() { return lanes(std::make_integer_sequence<int, kWidth>()); }

CRUCIBLE_INLINE Floats choose(Ints where, Floats yes, Floats no) {
  return reinterpret_cast<Floats>((where & reinterpret_cast<Ints>(yes)) |
                                  (~where & reinterpret_cast<Ints>(no)));
}

// The larger in each lane; a where one is NaN. (GCC compares with a constant and then moves.)
CRUCIBLE_INLINE Floats larger(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(b, a);
#else
  return b > a ? b : a;
#endif
}

CRUCIBLE_INLINE Floats load(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
CRUCIBLE_INLINE void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }

CRUCIBLE_INLINE Words widen(Halves v) {
#if defined(__AVX512F__)  // GCC 12 makes two instructions of it, and two moves
  return reinterpret_cast<Words>(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(v)));
#else
  return __builtin_convertvector(v, Words);
#endif
}
CRUCIBLE_INLINE Floats load(const BFloat16* p) {
  Halves halves;
  std::memcpy(&halves, p, sizeof halves);
  return reinterpret_cast<Floats>(widen(halves) << 16);
}
// The upper halves of words.
CRUCIBLE_INLINE void store_upper(BFloat16* p, Words v) {
  const Halves halves = __builtin_convertvector(v >> 16, Halves);
  std::memcpy(p, &halves, sizeof halves);
}

// Bits whose upper halves are numbers of bfloat16: v's plus `up`, as `cut` does; NaN stays NaN.
CRUCIBLE_INLINE Words rounded(Floats v, Words up) {
  const Words bits = reinterpret_cast<Words>(v);
  return v != v ? bits | 0x400000U : bits + up;
}
// What brings v to the nearest, ties to even, as `round_to_nearest` does.
CRUCIBLE_INLINE Words half_up(Floats v) {
  return ((reinterpret_cast<Words>(v) >> 16) & 1U) + 0x7fffU;
}
CRUCIBLE_INLINE void store(BFloat16* p, Floats v) { store_upper(p, rounded(v, half_up(v))); }

// Square roots: a compiler makes one instruction of the loop.
CRUCIBLE_INLINE Floats root(Floats v) {
  for (int lane = 0; lane < kWidth; ++lane) v[lane] = __builtin_sqrtf(v[lane]);
  return v;
}

// Begins to fetch `count` elements that lie `ahead` elements further; they need not be there.
template <typename T>
CRUCIBLE_INLINE void prefetch(const T* p, int count, std::int64_t ahead) {
  constexpr std::uintptr_t kLine = 64;
  const auto from =
      reinterpret_cast<std::uintptr_t>(p) + static_cast<std::uintptr_t>(ahead) * sizeof(T);
  for (std::uintptr_t at = 0; at < static_cast<std::uintptr_t>(count) * sizeof(T); at += kLine) {
    __builtin_prefetch(reinterpret_cast<const void*>(from + at));
  }
}

// Whether a comparison holds in any lane.
CRUCIBLE_INLINE bool any(Ints where) {
#if defined(__AVX512F__)
  const auto bits = reinterpret_cast<__m512i>(where);
  return _mm512_test_epi32_mask(bits, bits) != 0;
#else
  std::int32_t found = 0;
  for (int lane = 0; lane < kWidth; ++lane) found |= where[lane];
  return found != 0;
#endif
}

// The sum of the lanes, by halves: one after the other, each would wait for the one before.
template <int kApart, int... kLane>
CRUCIBLE_INLINE float sum_of(Floats v, std::integer_sequence<int, kLane...> lanes) {
  if constexpr (kApart == 0) {
    return v[0];
  } else {
    return sum_of<kApart / 2>(v + __builtin_shufflevector(v, v, (kLane ^ kApart)...), lanes);
  }
}
CRUCIBLE_INLINE float sum_of(Floats v) {
  return sum_of<kWidth / 2>(v, std::make_integer_sequence<int, kWidth>());
}

// What `each` hands on: how to reach the elements of one vector.
struct Whole {
  template <typename T>
  CRUCIBLE_INLINE Floats get(const T* p) const {
    return load(p);
  }
  template <typename T>
  CRUCIBLE_INLINE void put(T* p, Floats v) const {
    store(p, v);
  }
};
struct Part {  // the first `count` lanes; the others read as 0 and are not written
  int count;
#if defined(__AVX512F__)
  CRUCIBLE_INLINE __mmask16 mask() const { return static_cast<__mmask16>((1U << count) - 1U); }
  CRUCIBLE_INLINE Floats get(const float* p) const { return _mm512_maskz_loadu_ps(mask(), p); }
  CRUCIBLE_INLINE void put(float* p, Floats v) const { _mm512_mask_storeu_ps(p, mask(), v); }
#endif
  template <typename T>
  CRUCIBLE_INLINE Floats get(const T* p) const {
    T lanes[kWidth] = {};
    std::memcpy(lanes, p, static_cast<std::size_t>(count) * sizeof(T));
    return load(lanes);
  }
  template <typename T>
  CRUCIBLE_INLINE void put(T* p, Floats v) const {
    T lanes[kWidth];
    store(lanes, v);
    std::memcpy(p, lanes, static_cast<std::size_t>(count) * sizeof(T));
  }
};

// Calls f(i, lanes) for the vectors that start at elements i of `count`, the last one a Part.
template <typename F>
CRUCIBLE_INLINE void each(std::int64_t count, F&& f) {
  std::int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) f(i, Whole{});
  if (i < count) f(i, Part{static_cast<int>(count - i)});
}

// For x below 88; 0 below -87. Within 2 units in the last place: 2^n times the Taylor series to
// degree 7 of the rest, which is at most ln(2) / 2. NaN stays NaN.
CRUCIBLE_INLINE Floats exponential(Floats x) {
  const Floats lowest = all(-87.0F);
  const Ints vanishes = x < lowest;
  x = choose(vanishes, lowest, x);
  // Adding 1.5 * 2^23 rounds to an integer, which then sits in the low bits.
  const Floats magic = all(12582912.0F);
  const Floats shifted = x * 1.44269504F + magic;
  const Floats n = shifted - magic;
  const Floats r = x - n * 0.693359375F + n * 2.12194440e-4F;  // ln 2 in two parts
  Floats y = all(1.0F / 5040.0F);
  for (const float c : {1.0F / 720, 1.0F / 120, 1.0F / 24, 1.0F / 6, 0.5F, 1.0F, 1.0F}) {
    y = y * r + c;
  }
  y *= reinterpret_cast<Floats>((reinterpret_cast<Ints>(shifted) - 0x4b400000 + 127) << 23);
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(y) & ~vanishes);
}

// 2^x for x below 128; 0 below -126.5. Within 2 units in the last place: 2^n times a polynomial of
// least relative error for the rest, which is at most 1 / 2 either way. NaN stays NaN.
CRUCIBLE_INLINE Floats power_of_two(Floats x) {
  x = larger(x, all(-127.0F));
  // Adding this rounds to an integer, and the low bits are the exponent of 2 to its power: 0 for
  // 2^-127, which makes that 0.
  const Floats magic = all(12582912.0F + 127.0F);
  const Floats shifted = x + magic;
  const Floats r = x - (shifted - magic);
  Floats y = all(1.54648671e-4F);
  for (const float c :
       {1.34043814e-3F, 9.61804672e-3F, 5.55031573e-2F, 0.240226510F, 0.693147213F, 1.0F}) {
    y = y * r + c;
  }
  return y * reinterpret_cast<Floats>(reinterpret_cast<Words>(shifted) << 23);
}

// 1 / (1 + exp(-x)); at least exp(-87), so that the exponential does not overflow.
CRUCIBLE_INLINE Floats sigmoid(Floats x) {
  const Floats lowest = all(-87.0F);
  return 1.0F / (1.0F + exponential(-choose(x < lowest, lowest, x)));
}

#undef CRUCIBLE_INLINE

}  // namespace crucible::vectors
