// Products of bfloat16 by integers: where a processor multiplies pairs of 16-bit integers twice as
// fast as it does floats (AVX-512 VNNI), and pairs of bfloat16 not at all or slowly.
//
// A slice of a row of A, and of a column of B, is a scale times integers of 16 bits. Their products
// are summed exactly, in 32 bits: |sum a b| <= |a| |b| (Cauchy and Schwarz), so where the scale
// gives each slice a length of at most kLength no sum overflows, whatever the numbers are. (What
// overflows on the way, modulo 2^32, comes back.) A scale from the largest number, as is usual,
// would have to leave more room, and be spoilt by one that is far larger than the rest.
//
// Of n numbers the rounding takes sqrt(n / 12) / kLength of the length, 1.5e-4 for 576, where
// rounding them to bfloat16 has taken 1.7e-3; a product of two slices is off by 1.4 times that
// share of |a| |b| / sqrt(n), which is what products of random signs are like.
#pragma once

#include <cmath>

#include "panels.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>

#include <limits>
#endif

namespace crucible::gemm {

// Rows of integers: `scales` has one for each slice of a row, of `slice` elements. Where they lie
// together (Rows::kTogether), pair p of row i is at data[2 * i + p * stride].
struct Int16Rows {
  const std::int16_t* data;
  std::int64_t stride;
  const float* scales;
  std::int64_t scale_stride;  // from row to row
  std::int64_t slice;
};
// A slice of a panel, in pairs along the reduction as of bfloat16, and a scale for each column.
struct Int16Panel {
  const std::int16_t* data;
  std::int64_t step;
  const float* scales;
};

// A panel of such numbers: [depth / 2][kColumns][2], then the scales [slices][kColumns].
struct Int16Layout {
  explicit Int16Layout(std::int64_t depth) : slices(depth), depth(2 * groups(depth, 2)) {}
  // 16-bit elements from panel to panel.
  std::int64_t stride() const { return kColumns * (depth + 2 * groups(slices.depth, slices.size)); }
  std::int64_t numel(std::int64_t columns) const { return groups(columns, kColumns) * stride(); }
  // The slice that begins at row k of the panel at `column`.
  Int16Panel at(const void* panels, std::int64_t column, std::int64_t k) const {
    const auto* panel = static_cast<const std::int16_t*>(panels) + column / kColumns * stride();
    return {panel + k * kColumns, 2 * kColumns,
            reinterpret_cast<const float*>(panel + depth * kColumns) + k / slices.size * kColumns};
  }
  // Whether x is the number at row k of a column, as nearly as its integer can be. (Nothing is
  // known where a column has numbers that are not finite.)
  bool holds(const void* panels, std::int64_t k, std::int64_t column, float x) const {
    const std::int64_t j = column % kColumns;
    const Int16Panel slice = at(panels, column, k / slices.size * slices.size);
    const float scale = slice.scales[j];
    const auto whole =
        static_cast<float>(slice.data[k % slices.size / 2 * slice.step + 2 * j + k % 2]);
    return scale != scale || std::abs(x - whole * scale) <= 0.51F * scale;
  }
  Slices slices;
  std::int64_t depth;
};

// Defined where kInt16 says so: a block of rows in `memory`, of int16_numel() floats, and a panel
// from the same in float32.
inline std::int64_t int16_numel(std::int64_t rows, std::int64_t columns);
inline Int16Rows quantize_rows(const A& a, std::int64_t rows, std::int64_t columns, float* memory);
inline void quantize_panel(const float* from, const Int16Layout& layout, void* to);
// ... and kWidth columns of `depth` rows, as one slice each: pairs along the rows, `step` from pair
// to pair, and a scale for each column.
inline void quantize_columns(const float* from, std::int64_t stride, std::int64_t depth,
                             std::int16_t* to, std::int64_t step, float* scales);

#if defined(__AVX512VNNI__)
constexpr bool kInt16 = true;

// Below sqrt(2^31) by more than rounding adds to the length of a slice.
constexpr float kLength = 46300.0F;
static_assert(kWidth == 16 && kLength * kLength + 2 * kLength * 13 < 2147483648.0F &&
              kSlice <= 676);

// What numbers are divided by, and multiplied with, to become integers.
struct Scale {
  float scale;
  float inverse;
};

// Of numbers whose largest magnitude has the bits `most`, and whose squares sum to `squares`;
// squares_of(f) is that sum of the numbers times f. Numbers that are not finite have the scale NaN.
template <typename F>
inline Scale scale_of(std::int32_t most, float squares, F&& squares_of) {
  if (most == 0) return {0.0F, 0.0F};
  if (most >= 0x7f800000) return {std::numeric_limits<float>::quiet_NaN(), 0.0F};
  float largest, lift = 1.0F;
  std::memcpy(&largest, &most, sizeof largest);
  if (!(squares > 1e-24F && squares < 1e24F)) {  // may have lost digits to the range of float32
    lift = std::ldexp(1.0F, std::clamp(-std::ilogb(largest), -126, 100));
    squares = squares_of(lift);
  }
  const float scale = std::max(std::sqrt(squares) / kLength, largest * lift / 32767.0F);
  return {scale / lift, lift / scale};
}

inline __attribute__((always_inline)) __m512i magnitude(__m512 x) {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}

// kWidth slices at once: their scales, and what their numbers are multiplied with.
template <typename F>
inline __m512 scales_of(__m512i most, __m512 squares, float* scales, F&& squares_of) {
  float sums[kWidth], inverses[kWidth];
  std::int32_t largest[kWidth];
  _mm512_storeu_ps(sums, squares);
  _mm512_storeu_si512(largest, most);
  for (int lane = 0; lane < kWidth; ++lane) {
    const Scale scale =
        scale_of(largest[lane], sums[lane], [&](float lift) { return squares_of(lane, lift); });
    scales[lane] = scale.scale;
    inverses[lane] = scale.inverse;
  }
  return _mm512_loadu_ps(inverses);
}

// One slice of a row. Writes up to 15 zeros behind it.
inline float quantize_slice(const float* x, std::int64_t count, std::int16_t* to) {
  const auto each = [&](auto&& f) __attribute__((always_inline)) {
    std::int64_t k = 0;
    for (; k + kWidth <= count; k += kWidth) f(k, _mm512_loadu_ps(x + k));
    if (k < count) {
      const auto mask = static_cast<__mmask16>((1U << (count - k)) - 1);
      f(k, _mm512_maskz_loadu_ps(mask, x + k));
    }
  };
  __m512 squares = _mm512_setzero_ps();
  __m512i most = _mm512_setzero_si512();
  each([&](std::int64_t, __m512 v) __attribute__((always_inline)) {
    squares = _mm512_fmadd_ps(v, v, squares);
    most = _mm512_max_epi32(most, magnitude(v));
  });
  const auto lifted = [&](float lift) {
    __m512 sum = _mm512_setzero_ps();
    each([&](std::int64_t, __m512 v) {
      v = _mm512_mul_ps(v, _mm512_set1_ps(lift));
      sum = _mm512_fmadd_ps(v, v, sum);
    });
    return _mm512_reduce_add_ps(sum);
  };
  const Scale scale =
      scale_of(_mm512_reduce_max_epi32(most), _mm512_reduce_add_ps(squares), lifted);
  const __m512 inverse = _mm512_set1_ps(scale.inverse);
  each([&](std::int64_t k, __m512 v) __attribute__((always_inline)) {
    const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(v, inverse));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + k), _mm512_cvtsepi32_epi16(whole));
  });
  return scale.scale;
}

inline std::int64_t int16_stride(std::int64_t columns) { return groups(columns + 15, 32) * 32; }
inline std::int64_t int16_numel(std::int64_t rows, std::int64_t columns) {
  const Slices slices(columns);
  return rows * (int16_stride(columns) / 2 + groups(columns, slices.size));
}
inline Int16Rows quantize_rows(const A& a, std::int64_t rows, std::int64_t columns, float* memory) {
  const Slices slices(columns);
  const std::int64_t stride = int16_stride(columns), a_row = groups(columns, slices.size);
  auto* const data = reinterpret_cast<std::int16_t*>(memory);
  float* const scales = memory + rows * stride / 2;
  for (std::int64_t i = 0; i < rows; ++i) {
    slices.each([&](std::int64_t k, std::int64_t count, bool) {
      scales[i * a_row + k / slices.size] =
          quantize_slice(a.data + i * a.stride + k, count, data + i * stride + k);
    });
  }
  return {data, stride, scales, a_row, slices.size};
}

inline void quantize_columns(const float* from, std::int64_t stride, std::int64_t depth,
                             std::int16_t* to, std::int64_t step, float* scales) {
  const auto row = [&](std::int64_t k) __attribute__((always_inline)) {
    return k < depth ? _mm512_loadu_ps(from + k * stride) : _mm512_setzero_ps();
  };
  __m512 sums = _mm512_setzero_ps();
  __m512i most = _mm512_setzero_si512();
  for (std::int64_t k = 0; k < depth; ++k) {
    sums = _mm512_fmadd_ps(row(k), row(k), sums);
    most = _mm512_max_epi32(most, magnitude(row(k)));
  }
  const __m512 inverse = scales_of(most, sums, scales, [&](int lane, float lift) {
    float sum = 0.0F;
    for (std::int64_t k = 0; k < depth; ++k) {
      const float x = from[k * stride + lane] * lift;
      sum += x * x;
    }
    return sum;
  });
  const auto whole = [&](std::int64_t k) __attribute__((always_inline)) {
    return _mm512_cvtps_epi32(_mm512_mul_ps(row(k), inverse));
  };
  for (std::int64_t k = 0; k < depth; k += 2, to += step) {
    const __m512i pair =
        _mm512_mask_blend_epi16(0xaaaaaaaaU, whole(k), _mm512_slli_epi32(whole(k + 1), 16));
    _mm512_storeu_si512(to, pair);
  }
}

inline void quantize_panel(const float* from, const Int16Layout& layout, void* to) {
  auto* const panel = static_cast<std::int16_t*>(to);
  float* scales = reinterpret_cast<float*>(panel + layout.depth * kColumns);
  layout.slices.each([&](std::int64_t first, std::int64_t count, bool) {
    for (int j = 0; j < kColumns; j += kWidth) {
      quantize_columns(from + first * kColumns + j, kColumns, count,
                       panel + first * kColumns + 2 * j, 2 * kColumns, scales + j);
    }
    scales += kColumns;
  });
}

// Not __m512i, which GCC 12 would keep in memory where it stands in an array.
using Integers = std::int32_t __attribute__((vector_size(64)));

inline __attribute__((always_inline)) Integers integers_at(const std::int16_t* p) {
  return reinterpret_cast<Integers>(_mm512_loadu_si512(p));
}
inline __attribute__((always_inline)) Integers one_pair(const std::int16_t* p) {
  std::int32_t pair;
  std::memcpy(&pair, p, sizeof pair);
  return Integers{} + pair;
}
inline __attribute__((always_inline)) Integers add_pairs(Integers sum, Integers a, Integers b) {
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}
inline __attribute__((always_inline)) Vector scaled(Integers whole, Vector columns,
                                                    const float* row) {
  return __builtin_convertvector(whole, Vector) * columns * *row;
}

// Sets the sums, where those of floats add to them.
template <int kAcross, Rows kLie, int... kRow>
inline __attribute__((always_inline)) void add_products(const Int16Rows& a, const Int16Panel& b,
                                                        std::int64_t depth,
                                                        Vector (&sums)[sizeof...(kRow)][kAcross],
                                                        std::integer_sequence<int, kRow...>) {
  TileRows<sizeof...(kRow), kLie, std::int16_t> rows(a.data, a.stride, 2);
  const std::int16_t* panel = b.data;
  Integers whole[sizeof...(kRow)][kAcross] = {};
  for (std::int64_t k = 0; k < depth; k += 2, panel += b.step) {
    __builtin_prefetch(panel + kAhead * b.step);
    if constexpr (kAcross > 1) __builtin_prefetch(panel + kAhead * b.step + 2 * kWidth);
    const Integers left = integers_at(panel);
    if constexpr (kAcross == 1) {
      ((whole[kRow][0] = add_pairs(whole[kRow][0], one_pair(rows.at(kRow)), left)), ...);
    } else {
      const Integers right = integers_at(panel + 2 * kWidth);
      ((whole[kRow][0] = add_pairs(whole[kRow][0], one_pair(rows.at(kRow)), left),
        whole[kRow][1] = add_pairs(whole[kRow][1], one_pair(rows.at(kRow)), right)),
       ...);
    }
    rows.go_on();
  }
  const Vector left = load(b.scales);
  ((sums[kRow][0] = scaled(whole[kRow][0], left, a.scales + kRow * a.scale_stride)), ...);
  if constexpr (kAcross > 1) {
    const Vector right = load(b.scales + kWidth);
    ((sums[kRow][1] = scaled(whole[kRow][1], right, a.scales + kRow * a.scale_stride)), ...);
  }
}

template <Rows kLie>
inline void go_down(Int16Rows& a, std::int64_t rows) {
  a.data += rows * (kLie == Rows::kApart ? a.stride : 2);
  a.scales += rows * a.scale_stride;
}

template <Rows kLie, typename F = Nothing>
inline void multiply(std::int64_t count, Int16Rows a, const Int16Panel& b, std::int64_t depth,
                     Tail tail, C c, F&& after_tile = {}) {
  internal::multiply<kLie>(count, a, b, depth, tail, c, after_tile);
}
#else
constexpr bool kInt16 = false;
#endif

}  // namespace crucible::gemm
