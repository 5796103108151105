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
using vectors::Ints;

// Scores lie turned, keys by queries: a vector holds those of one key, so what belongs to a query
// is a lane of vectors and needs no sum across them.
constexpr std::int64_t kPanel = gemm::kColumns;  // queries whose scores one product makes
constexpr std::int64_t kKeys = 64;               // of a tile; tiles of queries are whole panels
constexpr std::int64_t kQueriesForward = 128, kQueriesBackward = 64;
constexpr float kNever = -std::numeric_limits<float>::max();
constexpr float kLog2e = 1.44269504F;  // scores are powers of 2 from the keys' scaling on
constexpr float kLn2 = 0.693147181F;

// Tokens of one segment, from `first` on; `position` is the first one's in its sequences.
struct Tile {
  std::int64_t segment, first, count, position;
};

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

  // Calls f(tile) for a segment's tokens, `most` at a time.
  template <typename F>
  void each_tile(std::int64_t segment, std::int64_t most, F&& f) const {
    const std::int64_t length = this->length(segment);
    for (std::int64_t done = 0; done < length; done += most) {
      f(Tile{segment, segments_.bounds[segment] + done, std::min(most, length - done),
             positions_[at(segment)] + done});
    }
  }

  // The tiles of all segments.
  std::vector<Tile> tiles(std::int64_t most) const {
    std::vector<Tile> found;
    for (std::int64_t i = 0; i < segments_.count; ++i) {
      each_tile(i, most, [&](const Tile& tile) { found.push_back(tile); });
    }
    return found;
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
  // Whether any of the queries [first, end) sees any key; whether each sees all that any does.
  bool any(std::int64_t first, std::int64_t end) const { return from(first) < to(end - 1); }
  bool all(std::int64_t first, std::int64_t end) const {
    return from(first) == from(end - 1) && to(first) == to(end - 1);
  }
  // The first query that sees a key, and the first after those that do.
  std::int64_t first_to_see(std::int64_t key) const {
    return std::max<std::int64_t>(0, key - ahead);
  }
  std::int64_t end_of(std::int64_t key) const {
    return window == 0 ? kMost : std::max<std::int64_t>(0, key - ahead + window);
  }
  // The vector of queries from `first` on, where they see a key.
  Ints by(std::int64_t first, std::int64_t key) const {
    const Ints query = static_cast<std::int32_t>(first + ahead - key) + vectors::lanes();
    const Ints seen = query >= 0;
    return window == 0 ? seen : seen & (query < static_cast<std::int32_t>(std::min(window, kMost)));
  }

  static constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  std::int64_t ahead, count, window;
};

// Calls f(first, count) for as many rows as one product's tile takes, in parts of nearly one size:
// of what is below the diagonal, each has its own share.
template <typename F>
void each_part(std::int64_t rows, F&& f) {
  const std::int64_t size = gemm::groups(rows, gemm::groups(rows, gemm::kRows));
  for (std::int64_t first = 0; first < rows; first += size) f(first, std::min(size, rows - first));
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
    if (D < width) std::fill(to + D, to + width, 0.0F);
  }
}

// The transpose of `count` rows as panels, [panels][D][kPanel].
template <typename T>
void turn_rows(const T* from, std::int64_t stride, std::int64_t count, std::int64_t D, float* to) {
  gemm::each_panel(count, [&](std::int64_t n, int columns) {
    gemm::pack_turned(from + n * stride, stride, D, columns, to + n * D);
  });
}

// The scores of a panel of queries, `first` and on, and the keys [from, from + keys) of a tile:
// rows [keys, padded(D)] times the panel of turned queries. Of keys that the first half of the
// panel does not see, only the other half's: `hide` sets the rest.
inline void multiply_turned(const Seen& seen, std::int64_t first, std::int64_t from,
                            std::int64_t keys, const float* rows, const float* panel,
                            std::int64_t D, float* scores, std::int64_t stride) {
  using gemm::Rows;
  constexpr std::int64_t kHalf = gemm::kWidth;
  const std::int64_t width = padded(D);
  const std::int64_t both = std::clamp<std::int64_t>(seen.to(first + kHalf - 1) - from, 0, keys);
  gemm::multiply<Rows::kApart>(both, {rows, width}, {panel, kPanel}, D, {},
                               {scores, stride, kPanel, false});
  gemm::multiply<Rows::kApart>(keys - both, {rows + both * width, width}, {panel + kHalf, kPanel},
                               D, {}, {scores + both * stride + kHalf, stride, kHalf, false});
}

// Scores of a panel of queries, `first` and on, and the keys from `from` on become `instead` where
// a query does not see a key.
inline void hide(const Seen& seen, std::int64_t first, std::int64_t from, std::int64_t keys,
                 float instead, float* scores, std::int64_t stride) {
  for (std::int64_t j = 0; j < keys; ++j, scores += stride) {
    for (std::int64_t i = 0; i < kPanel; i += vectors::kWidth) {
      vectors::store(scores + i, vectors::choose(seen.by(first + i, from + j),
                                                 vectors::load(scores + i), vectors::all(instead)));
    }
  }
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
