// Blocks of C += A B in float32, for one thread, at the width this file is compiled for.
//
//   tile     kRows x kColumns of C, held in registers while the reduction runs
//   panel    kColumns columns of B, [depth][kColumns], padded with zeros: what a tile reads
//   slice    at most kSlice of the reduction, of one panel of which all rows of A pass by before
//            the next
//
// A is never packed: a tile reads its rows where they lie, which costs nothing while a block of A
// fits the second-level cache. B is packed (panels.h) where many rows pass by; a weight that does
// not change, once for all.
//
// Operands of other kinds than float32 have files of their own, bfloat16_pairs.h and int16.h, and
// bring what a tile is made of: add_products() and go_down(). Sums are float32 all the same.
//
// An element of C is the sum over k in increasing order, cut at multiples of the slice, whatever
// the blocking of rows and columns: so results never depend on how work is spread over threads.
//
// Source: Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication"; Van Zee
// and van de Geijn 2015, "BLIS". What is different: A stays where it is, and a second, short
// product (`Tail`) rides in the last slice, so C is not visited again for it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "tile_rows.h"

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
#if defined(__AVX512F__)
// A tile's panel comes from the second-level cache as fast as it is multiplied, so a slice may be
// longer than the first holds; much longer, and float32 sums lose digits.
constexpr std::int64_t kSlice = 576;
#else
constexpr std::int64_t kSlice = 320;  // a panel of it stays in the first-level cache
#endif
constexpr std::int64_t kAhead = 16;  // rows of a panel that are asked for before they are read

using Vector = float __attribute__((vector_size(4 * kWidth)));
// The same at any address. (A copy by memcpy would go through the stack in GCC 12.)
using Unaligned = float __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));

constexpr std::int64_t groups(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

// Parts of at most `most`, nearly equal and of whole pairs.
struct Slices {
  explicit Slices(std::int64_t depth, std::int64_t most = kSlice)
      : depth(depth),
        size(2 * groups(groups(depth, std::max<std::int64_t>(1, groups(depth, most))), 2)) {}
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

struct A {
  const float* data;
  std::int64_t stride;
};

// A tile's part of B: row k at data + k * step.
struct B {
  const float* data;
  std::int64_t step;
};

inline B panel_at(const float* data) { return {data, kColumns}; }

// A second product of the same rows and columns, added in the same registers, after what C holds
// where that is added too; depth 0 for none.
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
// product to the next. kAcross vectors of a panel: kVectors, or one where that holds all columns.
template <int kAcross, Rows kLie, int... kRow>
inline __attribute__((always_inline)) void add_products(const A& a, const B& b, std::int64_t depth,
                                                        Vector (&sums)[sizeof...(kRow)][kAcross],
                                                        std::integer_sequence<int, kRow...>) {
  TileRows<sizeof...(kRow), kLie, float> rows(a.data, a.stride, 1);
  const float* panel = b.data;
  for (std::int64_t k = 0; k < depth; ++k, panel += b.step) {
    // What a tile waits for are panels that come from the second-level cache.
    __builtin_prefetch(panel + kAhead * b.step);
    if constexpr (kAcross > 1) __builtin_prefetch(panel + kAhead * b.step + kWidth);
    const Vector left = load(panel);
    if constexpr (kAcross == 1) {
      ((sums[kRow][0] += *rows.at(kRow) * left), ...);
    } else {
      const Vector right = load(panel + kWidth);
      ((sums[kRow][0] += *rows.at(kRow) * left, sums[kRow][1] += *rows.at(kRow) * right), ...);
    }
    rows.go_on();
  }
}

template <int kAcross>
inline __attribute__((always_inline)) void add_row(const C& c, std::int64_t i,
                                                   Vector (&sums)[kAcross]) {
  const float* from = c.data + i * c.stride;
  float row[kAcross * kWidth] = {};
  if (c.columns < kAcross * kWidth) {
    for (int j = 0; j < c.columns; ++j) row[j] = from[j];
    from = row;
  }
  sums[0] += load(from);
  if constexpr (kAcross > 1) sums[1] += load(from + kWidth);
}

template <int kAcross>
inline __attribute__((always_inline)) void put_row(const C& c, std::int64_t i,
                                                   Vector (&sums)[kAcross]) {
  float* row = c.data + i * c.stride;
  if (c.accumulate) {
    sums[0] += load(row);
    if constexpr (kAcross > 1) sums[1] += load(row + kWidth);
  }
  store(row, sums[0]);
  if constexpr (kAcross > 1) store(row + kWidth, sums[1]);
}

template <int kAcross>
inline void put_part_of_row(const C& c, std::int64_t i, Vector (&sums)[kAcross]) {
  float row[kAcross * kWidth];
  put_row<kAcross>({row, 0, kColumns, false}, 0, sums);
  float* to = c.data + i * c.stride;
  for (int j = 0; j < c.columns; ++j) to[j] = c.accumulate ? to[j] + row[j] : row[j];
}

template <int kAcross, Rows kLie, typename Left, typename Right, int... kRow>
inline __attribute__((always_inline)) void tile_of(const Left& a, const Right& b,
                                                   std::int64_t depth, const Tail& tail, C c,
                                                   std::integer_sequence<int, kRow...> rows) {
  Vector sums[sizeof...(kRow)][kAcross] = {};
  add_products<kAcross, kLie>(a, b, depth, sums, rows);
  if (tail.depth > 0) {
    if (c.accumulate) (add_row<kAcross>(c, kRow, sums[kRow]), ...);
    c.accumulate = false;
    add_products<kAcross, Rows::kApart>(tail.a, tail.b, tail.depth, sums, rows);
  }
  if (c.columns == kAcross * kWidth) {
    (put_row<kAcross>(c, kRow, sums[kRow]), ...);
  } else {
    (put_part_of_row<kAcross>(c, kRow, sums[kRow]), ...);
  }
}

template <int kCount, int kAcross, Rows kLie, typename Left, typename Right>
void tile(const Left& a, const Right& b, std::int64_t depth, const Tail& tail, const C& c) {
  tile_of<kAcross, kLie>(a, b, depth, tail, c, std::make_integer_sequence<int, kCount>());
}

// A tile of exactly as many rows.
template <int kMost, int kAcross, Rows kLie, typename Left, typename Right>
inline void tile_of_size(int count, const Left& a, const Right& b, std::int64_t depth,
                         const Tail& tail, const C& c) {
  if (count == kMost) return tile<kMost, kAcross, kLie>(a, b, depth, tail, c);
  if constexpr (kMost > 1) {
    tile_of_size<kMost - 1, kAcross, kLie>(count, a, b, depth, tail, c);
  }
}

// To the rows below.
template <Rows kLie, typename Left>
inline void go_down(Left& a, std::int64_t rows) {
  a.data += rows * (kLie == Rows::kApart ? a.stride : 1);
}

template <Rows kLie, typename Left, typename Right, typename F>
inline void multiply(std::int64_t count, Left a, const Right& b, std::int64_t depth, Tail tail, C c,
                     F&& after_tile) {
  if (count <= 0) return;
  const std::int64_t tiles = groups(count, kRows);
  const std::int64_t size = count / tiles, larger = count - size * tiles;
  for (std::int64_t i = 0; i < tiles; ++i) {
    const std::int64_t rows = i < larger ? size + 1 : size;
    const auto tile = c.columns <= kWidth ? tile_of_size<kRows, 1, kLie, Left, Right>
                                          : tile_of_size<kRows, kVectors, kLie, Left, Right>;
    tile(static_cast<int>(rows), a, b, depth, tail, c);
    go_down<kLie>(a, rows);
    tail.a.data += rows * tail.a.stride;
    c.data += rows * c.stride;
    after_tile();
  }
}

}  // namespace internal

struct Nothing {
  void operator()() const {}
};

// `count` rows of A against one panel: C[count, c.columns] (+)= A B + tail. In tiles of nearly the
// same size: one of a row or two would wait for its own sums. Calls after_tile() after each.
template <Rows kLie, typename F = Nothing>
inline void multiply(std::int64_t count, A a, const B& b, std::int64_t depth, Tail tail, C c,
                     F&& after_tile = {}) {
  internal::multiply<kLie>(count, a, b, depth, tail, c, after_tile);
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
