// Blocks of C += A B in float32, for one thread, at the width this file is compiled for.
//
//   tile     kRows x kColumns of C, held in registers while the reduction runs
//   panel    kColumns columns of B, [depth][kColumns], padded with zeros: what a tile reads
//   slice    kSlice of the reduction: one panel of it stays in the first-level cache while all rows
//            of A pass by
//
// A is never packed: a tile reads its rows where they lie, which costs nothing while a block of A
// fits the second-level cache. B is packed once for as many rows as there are; a weight that does
// not change can be packed once for all (`pack_panels`, `Panels`).
//
// An element of C is the sum over k in increasing order, cut at multiples of the slice, whatever
// the blocking of rows and columns: so results never depend on how work is spread over threads.
//
// Source: Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication"; Van Zee
// and van de Geijn 2015, "BLIS". What is different: A stays where it is, and a second, short
// product
// (`Tail`) rides in the last slice, so C is not visited again for it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "bfloat16.h"

namespace crucible::gemm {

#if defined(__AVX512F__)
constexpr int kWidth = 16, kRows = 14;
#elif defined(__AVX2__)
constexpr int kWidth = 8, kRows = 6;
#elif defined(__aarch64__)
constexpr int kWidth = 4, kRows = 14;
#else
constexpr int kWidth = 4, kRows = 6;
#endif
// kRows x 2 sums, two vectors of a panel and one broadcast fill the register file.
constexpr int kVectors = 2;
constexpr int kColumns = kVectors * kWidth;
constexpr std::int64_t kSlice = 320;

using Vector = float __attribute__((vector_size(4 * kWidth)));
// The same at any address. (A copy by memcpy would go through the stack in GCC 12.)
using Unaligned = float __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));

constexpr std::int64_t groups(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

// Equal parts of at most kSlice.
struct Slices {
  explicit Slices(std::int64_t depth)
      : depth(depth), size(groups(depth, std::max<std::int64_t>(1, groups(depth, kSlice)))) {}
  // Calls f(first, count, is_last) for each slice in order; once, with 0, for an empty reduction.
  template <typename F>
  void each(F&& f) const {
    if (depth == 0) return f(std::int64_t{0}, std::int64_t{0}, true);
    for (std::int64_t first = 0; first < depth; first += size) {
      f(first, std::min(size, depth - first), first + size >= depth);
    }
  }
  std::int64_t depth;
  std::int64_t size;
};

// How the rows of A that one tile reads lie: row i of column k is at
//   kApart     data[i * stride + k]      rows of a matrix
//   kTogether  data[i + k * stride]      columns of a matrix: its transpose
enum class Rows { kApart, kTogether };

struct A {
  const float* data;
  std::int64_t stride;
};

// A tile's part of B: row k at data + k * step.
struct B {
  const float* data;
  std::int64_t step;
};

// A second product of the same rows and columns, added in the same registers; depth 0 for none.
struct Tail {
  A a;
  B b;
  std::int64_t depth;
};

struct C {
  float* data;
  std::int64_t stride;
  int columns;      // at most kColumns; the others are not touched
  bool accumulate;  // else overwritten
};

inline __attribute__((always_inline)) Vector load(const float* p) {
  return *reinterpret_cast<const Unaligned*>(p);
}
inline __attribute__((always_inline)) void store(float* p, Vector v) {
  *reinterpret_cast<Unaligned*>(p) = v;
}

namespace internal {

// Rows by name and not by a loop over them: only then does GCC keep the sums in registers from one
// product to the next.
template <Rows kLie, int... kRow>
inline __attribute__((always_inline)) void add_products(const A& a, const B& b, std::int64_t depth,
                                                        Vector (&sums)[sizeof...(kRow)][kVectors],
                                                        std::integer_sequence<int, kRow...>) {
  const float* const rows[] = {(a.data + kRow * (kLie == Rows::kApart ? a.stride : 1))...};
  const float* panel = b.data;
  for (std::int64_t k = 0; k < depth; ++k, panel += b.step) {
    const Vector b0 = load(panel), b1 = load(panel + kWidth);
    const std::int64_t at = kLie == Rows::kApart ? k : k * a.stride;
    ((sums[kRow][0] += rows[kRow][at] * b0, sums[kRow][1] += rows[kRow][at] * b1), ...);
  }
}

inline __attribute__((always_inline)) void put_row(const C& c, std::int64_t i, Vector left,
                                                   Vector right) {
  float* row = c.data + i * c.stride;
  if (c.accumulate) {
    left += load(row);
    right += load(row + kWidth);
  }
  store(row, left);
  store(row + kWidth, right);
}

inline void put_part_of_row(const C& c, std::int64_t i, const Vector& left, const Vector& right) {
  float row[kColumns];
  put_row({row, 0, kColumns, false}, 0, left, right);
  float* to = c.data + i * c.stride;
  for (int j = 0; j < c.columns; ++j) to[j] = c.accumulate ? to[j] + row[j] : row[j];
}

template <Rows kLie, int... kRow>
inline __attribute__((always_inline)) void tile_of(const A& a, const B& b, std::int64_t depth,
                                                   const Tail& tail, const C& c,
                                                   std::integer_sequence<int, kRow...> rows) {
  Vector sums[sizeof...(kRow)][kVectors] = {};
  add_products<kLie>(a, b, depth, sums, rows);
  if (tail.depth > 0) add_products<Rows::kApart>(tail.a, tail.b, tail.depth, sums, rows);
  if (c.columns == kColumns) {
    (put_row(c, kRow, sums[kRow][0], sums[kRow][1]), ...);
  } else {
    (put_part_of_row(c, kRow, sums[kRow][0], sums[kRow][1]), ...);
  }
}

template <int kCount, Rows kLie>
void tile(const A& a, const B& b, std::int64_t depth, const Tail& tail, const C& c) {
  tile_of<kLie>(a, b, depth, tail, c, std::make_integer_sequence<int, kCount>());
}

// A tile of exactly as many rows.
template <int kMost, Rows kLie>
inline void tile_of_size(int count, const A& a, const B& b, std::int64_t depth, const Tail& tail,
                         const C& c) {
  if (count == kMost) return tile<kMost, kLie>(a, b, depth, tail, c);
  if constexpr (kMost > 1) tile_of_size<kMost - 1, kLie>(count, a, b, depth, tail, c);
}

}  // namespace internal

// `count` rows of A against one panel: C[count, c.columns] (+)= A B + tail. In tiles of nearly the
// same size: one of a row or two would wait for its own sums.
template <Rows kLie>
inline void multiply(std::int64_t count, A a, const B& b, std::int64_t depth, Tail tail, C c) {
  if (count <= 0) return;
  const std::int64_t tiles = groups(count, kRows);
  const std::int64_t size = count / tiles, larger = count - size * tiles;
  for (std::int64_t i = 0; i < tiles; ++i) {
    const std::int64_t rows = i < larger ? size + 1 : size;
    internal::tile_of_size<kRows, kLie>(static_cast<int>(rows), a, b, depth, tail, c);
    a.data += rows * (kLie == Rows::kApart ? a.stride : 1);
    tail.a.data += rows * tail.a.stride;
    c.data += rows * c.stride;
  }
}

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

// One panel from `columns` rows of a row-major matrix, turned: its transpose.
template <typename T, typename P>
inline void pack_turned(const T* rows, std::int64_t stride, std::int64_t depth, int columns,
                        P* panel) {
  // In strips, so that what is read and what is written are both in the first-level cache.
  constexpr std::int64_t kStrip = 16;
  for (std::int64_t first = 0; first < depth; first += kStrip) {
    const std::int64_t last = std::min(depth, first + kStrip);
    for (int j = 0; j < columns; ++j) {
      for (std::int64_t k = first; k < last; ++k) {
        put(panel[k * kColumns + j], rows[j * stride + k]);
      }
    }
    for (int j = columns; j < kColumns; ++j) {
      for (std::int64_t k = first; k < last; ++k) panel[k * kColumns + j] = P{};
    }
  }
}

// Elements of all panels of a B with `columns` columns: [panels][depth][kColumns].
inline std::int64_t panels_numel(std::int64_t columns, std::int64_t depth) {
  return groups(columns, kColumns) * kColumns * depth;
}

// Calls f(first, count) for the columns of each panel.
template <typename F>
inline void each_panel(std::int64_t columns, F&& f) {
  for (std::int64_t n = 0; n < columns; n += kColumns) {
    f(n, static_cast<int>(std::min<std::int64_t>(kColumns, columns - n)));
  }
}

// Memory of one thread that outlives the call: fresh pages would cost more than small products.
class Scratch {
 public:
  float* take(std::int64_t count) {
    const auto needed = static_cast<std::size_t>(groups(count, 16) * 16);
    if (needed > size_) {
      memory_.reset(new float[needed + 16]);
      size_ = needed;
    }
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
    return memory_.get() + ((64 - address % 64) % 64) / sizeof(float);
  }

 private:
  std::unique_ptr<float[]> memory_;
  std::size_t size_ = 0;
};

}  // namespace crucible::gemm
