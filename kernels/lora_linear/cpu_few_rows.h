// Products of a few rows with low-rank matrices where these lie: packing them would take longer
// than so few rows multiply. Everything is read once, in order, and results are written where they
// end.
//
//   dots      C[i, r] = sum over k of left[i, k] right[r, k]      S = x A^T
//   product   C[i, q] = sum over p of left[i, p] right[p, q]      D = dy B, and D A
//   outer     C[p, q] = sum over i of left[i, p] right[i, q]      dA = D^T x, dB = dy^T S
//
// The order of an element's sum depends on the length of the sum only, so a row's bits are the same
// beside any others. Tiles have a fixed size: beyond the last row or column of a tile, the last is
// computed again.
#pragma once

#include "../common/vectors.h"
#include "cpu_matrix.h"

namespace crucible::lora_linear::cpu {
namespace {

using vectors::Floats;
using vectors::kWidth;
static_assert(kWidth == gemm::kWidth, "a tile of one is a vector of the other");

#define CRUCIBLE_INLINE inline __attribute__((always_inline))

template <int kCount>
using UpTo = std::make_integer_sequence<int, kCount>;

// Addresses of `kCount` rows, `step` apart, of which `count` are there.
template <int kCount, typename T>
struct RowsOf {
  RowsOf(const T* first, std::int64_t step, std::int64_t count) {
    for (int i = 0; i < kCount; ++i) at[i] = first + std::min<std::int64_t>(i, count - 1) * step;
  }
  const T* at[kCount];
};

// A tile of `dots`: kRows rows of C by one vector, whose lanes are rows of the right matrix. Square
// blocks of these are turned in registers.
template <int kRows, typename T, int... kRow, int... kLane>
CRUCIBLE_INLINE void dots_tile(const RowsOf<kRows, float>& left, const T* right,
                               std::int64_t stride, std::int64_t across, std::int64_t depth,
                               Floats (&sums)[kRows], std::integer_sequence<int, kRow...>,
                               std::integer_sequence<int, kLane...> all) {
  const auto turned = [&](std::int64_t k, auto lanes,
                          Floats(&block)[kWidth]) __attribute__((always_inline)) {
    if (across >= kWidth) {
      ((block[kLane] = lanes.get(right + k + kLane * stride)), ...);
    } else {
      ((block[kLane] = kLane < across ? lanes.get(right + k + kLane * stride) : Floats{}), ...);
    }
    gemm::turn<1>(block, all);
  };
  const auto add = [&](std::int64_t k, Floats b) __attribute__((always_inline)) {
    ((sums[kRow] += left.at[kRow][k] * b), ...);
  };
  std::int64_t k = 0;
  for (; k + kWidth <= depth; k += kWidth) {
    Floats block[kWidth];
    turned(k, vectors::Whole{}, block);
    (add(k + kLane, block[kLane]), ...);
  }
  if (k == depth) return;
  Floats block[kWidth];
  turned(k, vectors::Part{static_cast<int>(depth - k)}, block);
  for (int j = 0; k + j < depth; ++j) add(k + j, block[j]);
}

template <int kRows, typename T, int... kRow>
CRUCIBLE_INLINE void dots_rows(std::int64_t rows, const gemm::A& left, const T* right,
                               std::int64_t stride, std::int64_t across, std::int64_t depth,
                               const gemm::C& c, std::integer_sequence<int, kRow...> all) {
  for (std::int64_t i = 0; i < rows; i += kRows) {
    const std::int64_t down = std::min<std::int64_t>(kRows, rows - i);
    const RowsOf<kRows, float> of_left(left.data + i * left.stride, left.stride, down);
    vectors::each(across, [&](std::int64_t r, auto lanes) __attribute__((always_inline)) {
      Floats sums[kRows] = {};
      const auto start = [&](int row) __attribute__((always_inline)) {
        if (row < down) sums[row] = lanes.get(c.data + (i + row) * c.stride + r);
      };
      if (c.accumulate) (start(kRow), ...);
      dots_tile(of_left, right + r * stride, stride, across - r, depth, sums, all, UpTo<kWidth>());
      const auto put = [&](int row) __attribute__((always_inline)) {
        if (row < down) lanes.put(c.data + (i + row) * c.stride + r, sums[row]);
      };
      (put(kRow), ...);
    });
  }
}

// C [rows, across] = left right^T over `depth`, right from its row `first` and column k on; where C
// accumulates, its sums go on from what it holds. Their order is that of gemm.h.
void dots(std::int64_t rows, const gemm::A& left, const Matrix& right, std::int64_t first,
          std::int64_t k, std::int64_t across, std::int64_t depth, const gemm::C& c) {
  typed(right, first, k, [&](auto* from) {
    constexpr int kMost = kWidth >= 16 ? 8 : 4;
    if (rows > kMost / 2) {
      dots_rows<kMost>(rows, left, from, right.stride, across, depth, c, UpTo<kMost>());
    } else {
      dots_rows<kMost / 2>(rows, left, from, right.stride, across, depth, c, UpTo<kMost / 2>());
    }
  });
}

// A tile of `product`: kTileRows x kAcross vectors, each the sum of kTurns that take turns, so that
// none waits for the one before; a long sum loses fewer digits so, too.
constexpr int kTileRows = 4, kChains = kWidth >= 16 ? 4 : 2;

template <int kAcross, int kTurns, typename T, typename Lanes, int... kRow>
CRUCIBLE_INLINE void product_tile(const RowsOf<kTileRows, float>& left, const T* right,
                                  std::int64_t step, std::int64_t depth, float* c,
                                  std::int64_t stride, std::int64_t rows, bool onto, Lanes lanes,
                                  std::integer_sequence<int, kRow...>) {
  Floats sums[kTurns][kTileRows][kAcross] = {};
  const auto across = [&](auto&& f) __attribute__((always_inline)) {
    CRUCIBLE_UNROLL
    for (int v = 0; v < kAcross; ++v) f(v, v * kWidth);
  };
  const auto add = [&](int turn, std::int64_t p) __attribute__((always_inline)) {
    across([&](int v, std::int64_t q) __attribute__((always_inline)) {
      const Floats b = lanes.get(right + p * step + q);
      ((sums[turn][kRow][v] += left.at[kRow][p] * b), ...);
    });
  };
  std::int64_t p = 0;
  for (; p + kTurns <= depth; p += kTurns) {
    CRUCIBLE_UNROLL
    for (int turn = 0; turn < kTurns; ++turn) add(turn, p + turn);
  }
  for (; p < depth; ++p) add(0, p);
  const auto put = [&](int row) __attribute__((always_inline)) {
    if (row >= rows) return;
    across([&](int v, std::int64_t q) __attribute__((always_inline)) {
      Floats sum = sums[0][row][v];
      CRUCIBLE_UNROLL
      for (int turn = 1; turn < kTurns; ++turn) sum += sums[turn][row][v];
      float* const to = c + row * stride + q;
      lanes.put(to, onto ? lanes.get(to) + sum : sum);
    });
  };
  (put(kRow), ...);
}

// C [rows, columns] (+)= left right, right of [depth, columns] at `right`, rows `step` apart. A
// vector of C is kAcross x kTurns sums where it can be, and then kTurns.
template <int kAcross, int kTurns, typename T>
void product(std::int64_t rows, const gemm::A& left, const T* right, std::int64_t step,
             std::int64_t depth, std::int64_t columns, float* c, std::int64_t stride, bool onto) {
  for (std::int64_t i = 0; i < rows; i += kTileRows) {
    const std::int64_t down = std::min<std::int64_t>(kTileRows, rows - i);
    const RowsOf<kTileRows, float> of_left(left.data + i * left.stride, left.stride, down);
    float* const to = c + i * stride;
    std::int64_t q = 0;
    if constexpr (kAcross > 1) {
      for (; q + kAcross * kWidth <= columns; q += kAcross * kWidth) {
        product_tile<kAcross, kTurns>(of_left, right + q, step, depth, to + q, stride, down, onto,
                                      vectors::Whole{}, UpTo<kTileRows>());
      }
    }
    vectors::each(columns - q, [&](std::int64_t j, auto lanes) {
      product_tile<1, kTurns>(of_left, right + q + j, step, depth, to + q + j, stride, down, onto,
                              lanes, UpTo<kTileRows>());
    });
  }
}

// A tile of `outer`: sizeof...(kRow) rows of C by kAcross vectors.
template <int kAcross, typename T, typename Lanes, int... kRow>
CRUCIBLE_INLINE void outer_tile(std::int64_t rows, const gemm::A& left, const gemm::A& right, T* c,
                                std::int64_t stride, Lanes lanes,
                                std::integer_sequence<int, kRow...>) {
  Floats sums[sizeof...(kRow)][kAcross] = {};
  const float* a = left.data;
  const float* b = right.data;
  for (std::int64_t i = 0; i < rows; ++i, a += left.stride, b += right.stride) {
    CRUCIBLE_UNROLL
    for (int v = 0; v < kAcross; ++v) {
      const Floats of_right = lanes.get(b + v * kWidth);
      ((sums[kRow][v] += a[kRow] * of_right), ...);
    }
  }
  const auto put = [&](int row) __attribute__((always_inline)) {
    CRUCIBLE_UNROLL
    for (int v = 0; v < kAcross; ++v) lanes.put(c + row * stride + v * kWidth, sums[row][v]);
  };
  (put(kRow), ...);
}

// kDown rows of C: kAcross vectors at a time as long as there are so many.
template <int kDown, int kAcross, typename T>
void outer_rows(std::int64_t rows, const gemm::A& left, const gemm::A& right, std::int64_t across,
                T* c, std::int64_t stride) {
  std::int64_t q = 0;
  if constexpr (kAcross > 1) {
    for (; q + kAcross * kWidth <= across; q += kAcross * kWidth) {
      outer_tile<kAcross>(rows, left, from(right, 0, q), c + q, stride, vectors::Whole{},
                          UpTo<kDown>());
    }
  }
  vectors::each(across - q, [&](std::int64_t j, auto lanes) __attribute__((always_inline)) {
    outer_tile<1>(rows, left, from(right, 0, q + j), c + q + j, stride, lanes, UpTo<kDown>());
  });
}

template <int kDown, int kAcross, typename T>
void outer_by(std::int64_t rows, const gemm::A& left, std::int64_t down, const gemm::A& right,
              std::int64_t across, T* c, std::int64_t stride) {
  std::int64_t p = 0;
  for (; p + kDown <= down; p += kDown) {
    outer_rows<kDown, kAcross>(rows, from(left, 0, p), right, across, c + p * stride, stride);
  }
  for (; p < down; ++p) {
    outer_rows<1, kAcross>(rows, from(left, 0, p), right, across, c + p * stride, stride);
  }
}

// C [down, across] = left^T right over so many rows, of long rows few at a time: memory that nobody
// has read takes writes best in order.
void outer(std::int64_t rows, const gemm::A& left, std::int64_t down, const gemm::A& right,
           std::int64_t across, const Matrix& c) {
  typed(c, 0, 0, [&](auto* to) {
    if (across >= 4 * kWidth) {
      outer_by<2, 4>(rows, left, down, right, across, to, c.stride);
    } else {
      outer_by<8, 1>(rows, left, down, right, across, to, c.stride);
    }
  });
}

#undef CRUCIBLE_INLINE

}  // namespace
}  // namespace crucible::lora_linear::cpu
