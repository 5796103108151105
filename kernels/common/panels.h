// Panels of B, as the tiles of gemm.h read them: packed from a matrix or from its transpose.
#pragma once

#include <type_traits>

#include "bfloat16_pairs.h"
#include "vectors.h"

namespace crucible::gemm {

inline void put(float& to, float x) { to = x; }
inline void put(float& to, BFloat16 x) { to = widen(x); }
inline void put(BFloat16& to, BFloat16 x) { to = x; }

// A row of a panel. Floats by vectors: GCC would ask first whether the two rows overlap.
template <typename P, typename T>
inline void put_row(P* to, const T* from) {
  for (int j = 0; j < kColumns; ++j) put(to[j], from[j]);
}
inline void put_row(float* to, const float* from) {
  for (int j = 0; j < kColumns; j += kWidth) store(to + j, load(from + j));
}

// One panel from `depth` rows of a row-major matrix: columns [0, columns) of each, then zeros.
template <typename T, typename P>
inline void pack_rows(const T* rows, std::int64_t stride, std::int64_t depth, int columns,
                      P* panel) {
  for (std::int64_t k = 0; k < depth; ++k, rows += stride, panel += kColumns) {
    if (columns == kColumns) {
      put_row(panel, rows);
    } else {
      for (int j = 0; j < kColumns; ++j) put(panel[j], j < columns ? rows[j] : T{});
    }
  }
}

// Square blocks of kWidth rows turned in registers: in each step, rows `kApart` apart exchange the
// halves of their pieces of 2 kApart lanes.
template <int kApart, int... kLane>
inline __attribute__((always_inline)) void exchange(Vector& low, Vector& high,
                                                    std::integer_sequence<int, kLane...>) {
  const Vector a = low, b = high;
  low = __builtin_shufflevector(a, b, ((kLane & kApart) ? kWidth + kLane - kApart : kLane)...);
  high = __builtin_shufflevector(a, b, ((kLane & kApart) ? kWidth + kLane : kLane + kApart)...);
}

template <int kApart, int... kLane>
inline __attribute__((always_inline)) void turn(Vector (&rows)[kWidth],
                                                std::integer_sequence<int, kLane...> lanes) {
  if constexpr (kApart < kWidth) {
    ((kLane & kApart ? void() : exchange<kApart>(rows[kLane], rows[kLane ^ kApart], lanes)), ...);
    turn<2 * kApart>(rows, lanes);
  }
}

inline __attribute__((always_inline)) Vector load(const BFloat16* p) { return vectors::load(p); }

// kWidth elements of up to kWidth rows, as columns of a panel; those of other rows are zero.
template <typename T, int... kLane>
inline void turn_block(const T* rows, std::int64_t stride, int count, float* panel,
                       std::integer_sequence<int, kLane...> lanes) {
  Vector block[kWidth] = {};
  if (count >= kWidth) {
    ((block[kLane] = load(rows + kLane * stride)), ...);
  } else {
    ((kLane < count ? void(block[kLane] = load(rows + kLane * stride)) : void()), ...);
  }
  turn<1>(block, lanes);
  (store(panel + kLane * kColumns, block[kLane]), ...);
}

// Elements [first, last) of `columns` rows of a row-major matrix, as columns of a panel.
template <typename T, typename P>
inline void turn_by_element(const T* rows, std::int64_t stride, std::int64_t first,
                            std::int64_t last, int columns, P* panel) {
  for (int j = 0; j < columns; ++j) {
    for (std::int64_t k = first; k < last; ++k) put(panel[k * kColumns + j], rows[j * stride + k]);
  }
  for (int j = columns; j < kColumns; ++j) {
    for (std::int64_t k = first; k < last; ++k) panel[k * kColumns + j] = P{};
  }
}

// One panel from `columns` rows of a row-major matrix, turned: its transpose.
template <typename T>
inline void pack_turned(const T* rows, std::int64_t stride, std::int64_t depth, int columns,
                        float* panel) {
  std::int64_t first = 0;
  for (; first + kWidth <= depth; first += kWidth) {
    for (int j = 0; j < kColumns; j += kWidth) {
      turn_block(rows + j * stride + first, stride, columns - j, panel + first * kColumns + j,
                 std::make_integer_sequence<int, kWidth>());
    }
  }
  turn_by_element(rows, stride, first, depth, columns, panel);
}

// The same in the matrix's own dtype.
inline void pack_turned(const BFloat16* rows, std::int64_t stride, std::int64_t depth, int columns,
                        BFloat16* panel) {
  // In strips, so that what is read and what is written are both in the first-level cache.
  constexpr std::int64_t kStrip = 16;
  for (std::int64_t first = 0; first < depth; first += kStrip) {
    turn_by_element(rows, stride, first, std::min(depth, first + kStrip), columns, panel);
  }
}

// A weight's own dtype in a panel: pairs of bfloat16 where there are products of them.
template <typename T>
constexpr bool in_pairs = kPairs && std::is_same_v<T, BFloat16>;

// Rows of such a panel, and the place of an element in it.
template <typename T>
constexpr std::int64_t panel_depth(std::int64_t depth) {
  return in_pairs<T> ? 2 * groups(depth, 2) : depth;
}
template <typename T>
constexpr std::int64_t place(std::int64_t row, std::int64_t column) {
  if (!in_pairs<T>) return row * kColumns + column;
  return (row / 2 * kColumns + column) * 2 + row % 2;
}

// One panel in pairs; element(k, j) is that of row k and column j.
template <typename F>
inline void pack_pairs(std::int64_t depth, int columns, BFloat16* panel, F&& element) {
  for (std::int64_t k = 0; k < panel_depth<BFloat16>(depth); ++k) {
    for (int j = 0; j < kColumns; ++j) {
      panel[place<BFloat16>(k, j)] = k < depth && j < columns ? element(k, j) : BFloat16{};
    }
  }
}

// Elements of all panels of a B with `columns` columns: [panels][depth][kColumns]; of either dtype.
inline std::int64_t panels_numel(std::int64_t columns, std::int64_t depth) {
  return groups(columns, kColumns) * kColumns * panel_depth<BFloat16>(depth);
}

// Calls f(first, count) for the columns of each panel.
template <typename F>
inline void each_panel(std::int64_t columns, F&& f) {
  for (std::int64_t n = 0; n < columns; n += kColumns) {
    f(n, static_cast<int>(std::min<std::int64_t>(kColumns, columns - n)));
  }
}

}  // namespace crucible::gemm
