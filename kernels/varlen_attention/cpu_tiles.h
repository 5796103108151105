// What both passes of varlen_attention share: which tiles of keys a tile of queries sees, tiles
// laid as the products read them, and the rows of a tile of scores.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "../common/bfloat16.h"
#include "../common/panels.h"
#include "../common/vectors.h"
#include "launch.h"

namespace crucible::varlen_attention::cpu {

using gemm::kColumns;
using vectors::Floats;

// A tile of scores stays in the first-level cache: whole tiles of a product one way, whole panels
// the other.
constexpr std::int64_t kQueries = gemm::kRows * (64 / gemm::kRows);
constexpr std::int64_t kKeys = 64;
constexpr float kNever = -std::numeric_limits<float>::max();

// Tokens of one segment, from `first` on; `position` is the first one's in its sequences.
struct Tile {
  std::int64_t segment, first, count, position;
};

// Calls f(tile) for a segment's tokens, `most` at a time.
class Tree {
 public:
  explicit Tree(const Segments& segments) : segments_(segments) {
    for (std::int64_t i = 0; i < segments.count; ++i) {
      const std::int64_t up = parent(i);
      positions_.push_back(up < 0 ? 0 : positions_[at(up)] + length(up));
      roots_.push_back(up < 0 ? i : roots_[at(up)]);
    }
  }

  std::int64_t parent(std::int64_t i) const {
    return segments_.parents == nullptr ? -1 : segments_.parents[i];
  }
  std::int64_t length(std::int64_t i) const {
    return segments_.bounds[i + 1] - segments_.bounds[i];
  }
  std::int64_t root(std::int64_t i) const { return roots_[at(i)]; }

  // The segments that i continues, from the first on, and i.
  std::vector<std::int64_t> path(std::int64_t i) const {
    std::vector<std::int64_t> found;
    for (; i >= 0; i = parent(i)) found.push_back(i);
    std::reverse(found.begin(), found.end());
    return found;
  }

  template <typename F>
  void each_tile(std::int64_t segment, std::int64_t most, F&& f) const {
    const std::int64_t length = this->length(segment);
    for (std::int64_t done = 0; done < length; done += most) {
      f(Tile{segment, segments_.bounds[segment] + done, std::min(most, length - done),
             positions_[at(segment)] + done});
    }
  }

 private:
  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
  Segments segments_;
  std::vector<std::int64_t> positions_, roots_;
};

// The keys [from, to) of a tile that query i of another one sees.
struct Seen {
  Seen(const Tile& queries, const Tile& keys, std::int64_t window)
      : ahead(queries.position - keys.position), count(keys.count), window(window) {}
  std::int64_t from(std::int64_t i) const {
    return window == 0 ? 0 : std::clamp<std::int64_t>(ahead + i + 1 - window, 0, count);
  }
  std::int64_t to(std::int64_t i) const {
    return std::clamp<std::int64_t>(ahead + i + 1, 0, count);
  }
  // Whether any query of `queries` rows sees any key.
  bool any(std::int64_t queries) const { return to(queries - 1) > 0 && from(0) < count; }

  std::int64_t ahead, count, window;
};

// Calls f(first, count) for as many rows as one product's tile takes, in parts of nearly one size:
// of what is below the diagonal, each has its own share.
template <typename F>
void each_part(std::int64_t rows, F&& f) {
  const std::int64_t size = gemm::groups(rows, gemm::groups(rows, gemm::kRows));
  for (std::int64_t first = 0; first < rows; first += size) f(first, std::min(size, rows - first));
}

// The first `count` of a row's elements, filled up to whole vectors.
inline std::int64_t in_vectors(std::int64_t count) {
  return gemm::groups(count, vectors::kWidth) * vectors::kWidth;
}

// Elements of a row of a tile, with zeros up to whole panels.
inline std::int64_t padded(std::int64_t D) { return gemm::groups(D, kColumns) * kColumns; }

// to[i, :] = scale * from[i, :], [count, padded(D)], the padding zeros.
template <typename T>
void widen_rows(const T* from, std::int64_t stride, std::int64_t count, std::int64_t D, float scale,
                float* to) {
  const std::int64_t width = padded(D);
  for (std::int64_t i = 0; i < count; ++i, from += stride, to += width) {
    vectors::each(
        D, [&](std::int64_t d, auto lanes) { lanes.put(to + d, scale * lanes.get(from + d)); });
    std::fill(to + D, to + width, 0.0F);
  }
}

// The transpose of `count` rows as panels: kKeys * D elements.
template <typename T>
void turn_rows(const T* from, std::int64_t stride, std::int64_t count, std::int64_t D, float* to) {
  gemm::each_panel(count, [&](std::int64_t n, int columns) {
    gemm::pack_turned(from + n * stride, stride, D, columns, to + n * D);
  });
}

// scores [queries, kKeys] = rows [queries, padded(D)] times panels of turned keys or values.
inline void multiply_turned(const float* rows, std::int64_t queries, const float* panels,
                            std::int64_t keys, std::int64_t D, float* scores) {
  gemm::each_panel(keys, [&](std::int64_t n, int) {
    gemm::multiply<gemm::Rows::kApart>(queries, {rows, padded(D)}, {panels + n * D, kColumns}, D,
                                       {}, {scores + n, kKeys, kColumns, false});
  });
}

// sums [count, stride] += A [count, depth] times rows [depth, padded(D)], D columns of it.
template <gemm::Rows kLie>
void add_rows(std::int64_t count, const gemm::A& a, const float* rows, std::int64_t depth,
              std::int64_t D, float* sums, std::int64_t stride) {
  gemm::each_panel(D, [&](std::int64_t n, int columns) {
    gemm::multiply<kLie>(count, a, {rows + n, padded(D)}, depth, {},
                         {sums + n, stride, columns, true});
  });
}

}  // namespace crucible::varlen_attention::cpu
