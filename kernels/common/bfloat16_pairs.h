// Operands of bfloat16 for gemm.h, where a processor multiplies pairs of them and adds both to a
// float32 (AVX512-BF16): rows of A as they lie, and panels of pairs along the reduction.
#pragma once

#include "bfloat16.h"
#include "gemm.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace crucible::gemm {

struct PairRows {
  const BFloat16* data;
  std::int64_t stride;
};
// [depth / 2][kColumns][2]; `step` is from pair to pair.
struct PairPanel {
  const BFloat16* data;
  std::int64_t step;
};

inline PairPanel panel_at(const BFloat16* data) { return {data, 2 * kColumns}; }

#if defined(__AVX512BF16__)
constexpr bool kPairs = true;

inline __attribute__((always_inline)) __m512bh pairs_at(const BFloat16* p) {
  return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
}
inline __attribute__((always_inline)) __m512bh one_pair(const BFloat16* p) {
  std::int32_t pair;
  std::memcpy(&pair, p, sizeof pair);
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}
template <int kAcross, Rows kLie, int... kRow>
inline __attribute__((always_inline)) void add_products(const PairRows& a, const PairPanel& b,
                                                        std::int64_t depth,
                                                        Vector (&sums)[sizeof...(kRow)][kAcross],
                                                        std::integer_sequence<int, kRow...>) {
  static_assert(kLie == Rows::kApart, "a pair lies in one row");
  TileRows<sizeof...(kRow), kLie, BFloat16> rows(a.data, a.stride, 2);
  const BFloat16* panel = b.data;
  for (std::int64_t k = 0; k < depth; k += 2, panel += b.step) {
    __builtin_prefetch(panel + kAhead * b.step);
    if constexpr (kAcross > 1) __builtin_prefetch(panel + kAhead * b.step + 2 * kWidth);
    const __m512bh left = pairs_at(panel);
    if constexpr (kAcross == 1) {
      ((sums[kRow][0] = _mm512_dpbf16_ps(sums[kRow][0], one_pair(rows.at(kRow)), left)), ...);
    } else {
      const __m512bh right = pairs_at(panel + 2 * kWidth);
      ((sums[kRow][0] = _mm512_dpbf16_ps(sums[kRow][0], one_pair(rows.at(kRow)), left),
        sums[kRow][1] = _mm512_dpbf16_ps(sums[kRow][1], one_pair(rows.at(kRow)), right)),
       ...);
    }
    rows.go_on();
  }
}

template <Rows kLie, typename F = Nothing>
inline void multiply(std::int64_t count, PairRows a, const PairPanel& b, std::int64_t depth,
                     Tail tail, C c, F&& after_tile = {}) {
  internal::multiply<kLie>(count, a, b, depth, tail, c, after_tile);
}
#else
constexpr bool kPairs = false;
#endif

}  // namespace crucible::gemm
