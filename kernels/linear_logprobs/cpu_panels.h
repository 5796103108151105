// The inner loops of the CPU variant, in the widest vectors the file is compiled for.
//
// A lane is a token: kLanes tokens make a panel, and everything about a panel (hidden states,
// logits, sums) is stored [row][lane]. So the softmax runs down a column of vectors without a
// single shuffle, and the exponentials already lie as the next product wants to read them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

#include "../common/bfloat16.h"

namespace crucible::linear_logprobs::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16, kRows = 12;
#elif defined(__AVX__)
constexpr int kWidth = 8, kRows = 6;
#elif defined(__aarch64__)
constexpr int kWidth = 4, kRows = 12;
#else
constexpr int kWidth = 4, kRows = 6;
#endif
// kRows x 2 sums, two vectors of a panel and one broadcast fill the register file.
constexpr int kLanes = 2 * kWidth;
// Vocabulary rows scored at a time: their exponentials for one panel stay in the first-level cache.
constexpr int kScored = 240;
// Hidden elements multiplied at a time: so does that slice of a panel's hidden states.
constexpr std::int64_t kDepth = 320;
static_assert(kScored % kRows == 0);
// Head rows packed at a time.
constexpr std::int64_t kBlock = 2 * kScored;

constexpr std::int64_t groups(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

using Buffer = std::unique_ptr<float[]>;
Buffer buffer(std::int64_t count) {
  return Buffer(new float[static_cast<std::size_t>(count)]);  // not value-initialised
}

typedef float Vec __attribute__((vector_size(4 * kWidth)));
typedef std::int32_t IntVec __attribute__((vector_size(4 * kWidth)));

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline Vec all(float x) { return Vec{} + x; }
inline Vec choose(IntVec where, Vec yes, Vec no) {
  return reinterpret_cast<Vec>((where & reinterpret_cast<IntVec>(yes)) |
                               (~where & reinterpret_cast<IntVec>(no)));
}

// For x below 88; 0 below -87. Within 2 units in the last place: 2^n times the Taylor series to
// degree 7 of the rest, which is at most ln(2) / 2. NaN stays NaN.
inline Vec exponential(Vec x) {
  const Vec lowest = all(-87.0F);
  const IntVec vanishes = x < lowest;
  x = choose(vanishes, lowest, x);
  // Adding 1.5 * 2^23 rounds to an integer, which then sits in the low bits.
  const Vec magic = all(12582912.0F);
  const Vec shifted = x * 1.44269504F + magic;
  const Vec n = shifted - magic;
  const Vec r = x - n * 0.693359375F + n * 2.12194440e-4F;  // ln 2 in two parts
  Vec y = all(1.0F / 5040.0F);
  for (const float c : {1.0F / 720, 1.0F / 120, 1.0F / 24, 1.0F / 6, 0.5F, 1.0F, 1.0F}) {
    y = y * r + c;
  }
  const IntVec power = (reinterpret_cast<IntVec>(shifted) - 0x4b400000 + 127) << 23;
  y *= reinterpret_cast<Vec>(power);
  return reinterpret_cast<Vec>(reinterpret_cast<IntVec>(y) & ~vanishes);
}

// tanh as 2 / (1 + exp(-2x)) - 1, from the side where the exponential cannot overflow.
inline Vec hyperbolic_tangent(Vec x) {
  const IntVec negative = x < all(0.0F);
  const Vec e = exponential(-2.0F * choose(negative, -x, x));
  const Vec t = (1.0F - e) / (1.0F + e);
  return choose(negative, -t, t);
}

// c[kRows][kLanes] (+)= sum over k of a[k][kRows] b[k][kLanes].
inline void multiply(std::int64_t depth, const float* a, const float* b, float* c, bool add) {
  Vec sums[kRows][2] = {};
  if (add) {
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      sums[i][0] = load(c + i * kLanes);
      sums[i][1] = load(c + i * kLanes + kWidth);
    }
  }
  for (std::int64_t k = 0; k < depth; ++k, a += kRows, b += kLanes) {
    const Vec b0 = load(b), b1 = load(b + kWidth);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      sums[i][0] += a[i] * b0;
      sums[i][1] += a[i] * b1;
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
    store(c + i * kLanes, sums[i][0]);
    store(c + i * kLanes + kWidth, sums[i][1]);
  }
}

// c[kRows][kLanes], rows `stride` apart, += sum over panels and lanes of a[panel][kRows][lane]
// b[panel * kLanes + lane][kLanes]: the product over tokens, with panels as they lie.
inline void multiply_panels(int panels, const float* a, std::int64_t panel_stride, const float* b,
                            float* c, std::int64_t stride) {
  Vec sums[kRows][2];
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
    sums[i][0] = load(c + i * stride);
    sums[i][1] = load(c + i * stride + kWidth);
  }
  for (int p = 0; p < panels; ++p, a += panel_stride) {
    for (int k = 0; k < kLanes; ++k, b += kLanes) {
      const Vec b0 = load(b), b1 = load(b + kWidth);
#pragma GCC unroll 12
      for (int i = 0; i < kRows; ++i) {
        sums[i][0] += a[i * kLanes + k] * b0;
        sums[i][1] += a[i * kLanes + k] * b1;
      }
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
    store(c + i * stride, sums[i][0]);
    store(c + i * stride + kWidth, sums[i][1]);
  }
}

// to[k][kWide] = rows[i][k] for i below `count`, zero beyond: a panel of rows, turned.
template <int kWide, typename T>
void pack_rows(const T* rows, std::int64_t stride, std::int64_t count, std::int64_t length,
               float* to) {
  for (int i = 0; i < kWide; ++i) {
    if (i < count) {
      const T* row = rows + i * stride;
      for (std::int64_t k = 0; k < length; ++k) to[k * kWide + i] = widen(row[k]);
    } else {
      for (std::int64_t k = 0; k < length; ++k) to[k * kWide + i] = 0.0F;
    }
  }
}

// to[row][kWide] = rows[row][first + i] for i below `count`, zero beyond: a panel of columns.
template <int kWide, typename T>
void pack_columns(const T* rows, std::int64_t stride, std::int64_t row_count, std::int64_t count,
                  float* to) {
  for (std::int64_t row = 0; row < row_count; ++row, rows += stride, to += kWide) {
    if (count >= kWide) {
      for (int i = 0; i < kWide; ++i) to[i] = widen(rows[i]);
    } else {
      for (int i = 0; i < kWide; ++i) to[i] = i < count ? widen(rows[i]) : 0.0F;
    }
  }
}

// Logits of `rows` head rows for one panel, [rows][kLanes]: head is packed [panel][H][kRows].
inline void score(const float* head, const float* hidden, std::int64_t H, std::int64_t rows,
                  float* logits) {
  for (std::int64_t h = 0; h < H; h += kDepth) {
    const std::int64_t depth = std::min(kDepth, H - h);
    for (std::int64_t v = 0; v < rows; v += kRows) {
      multiply(depth, head + v * H + h * kRows, hidden + h * kLanes, logits + v * kLanes, h > 0);
    }
  }
}

// z becomes softcap tanh(z / softcap); bend is its derivative.
inline void cap(std::int64_t rows, float softcap, float* logits, float* bend) {
  for (std::int64_t i = 0; i < rows * kLanes; i += kWidth) {
    const Vec bounded = hyperbolic_tangent(load(logits + i) / softcap);
    store(logits + i, softcap * bounded);
    store(bend + i, 1.0F - bounded * bounded);
  }
}

}  // namespace
}  // namespace crucible::linear_logprobs::cpu
