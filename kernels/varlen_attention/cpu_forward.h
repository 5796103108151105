// The forward of varlen_attention: a tile of queries passes over the tiles of keys that it sees,
// all heads of a group at once, with a running softmax.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "../common/threads.h"
#include "cpu_tiles.h"

namespace crucible::varlen_attention::cpu {

// Exponentials are taken of scores less a `base` of each query, which is moved to the greatest
// score only once that is this far away: it hardly ever is, and float32 holds 2^kFar times any sum.
constexpr float kFar = 40.0F;

// Where one thread works.
struct ForwardMemory {
  explicit ForwardMemory(const Size& size) {
    const std::int64_t width = padded(size.D), rows = size.A / size.G * kQueriesForward;
    float* next = scratch.take(rows * (size.D + width + 3) + kKeys * (2 * width + kPanel));
    const auto part = [&next](std::int64_t count) { return std::exchange(next, next + count); };
    q = part(rows * size.D);
    out = part(rows * width);
    sum = part(rows);
    most = part(rows);
    base = part(rows);
    keys = part(kKeys * width);
    values = part(kKeys * width);
    scores = part(kKeys * kPanel);
  }
  gemm::Scratch scratch;
  float *q, *out;            // of the group's heads: panels of turned queries; [queries, padded(D)]
  float *sum, *most, *base;  // [heads of the group, kQueriesForward]
  float *keys, *values;      // of one tile, [kKeys, padded(D)]
  float* scores;             // [kKeys, kPanel]
};

// Moves the bases of the vector of queries at `at`, with what they have summed; returns them.
inline Floats move_bases(const ForwardMemory& m, const Ints& moves, const Floats& most,
                         std::int64_t at, std::int64_t width) {
  const Floats old = vectors::load(m.base + at), now = vectors::choose(moves, most, old);
  // A base falls only before anything is summed.
  const Floats shrinks = vectors::power_of_two(-vectors::larger(now - old, Floats{}));
  vectors::store(m.base + at, now);
  vectors::store(m.sum + at, shrinks * vectors::load(m.sum + at));
  float* out = m.out + at * width;
  for (int i = 0; i < vectors::kWidth; ++i, out += width) {
    for (std::int64_t d = 0; d < width; d += vectors::kWidth) {
      vectors::store(out + d, shrinks[i] * vectors::load(out + d));
    }
  }
  return now;
}

// The scores of a panel of queries become exponentials; `at` is their place among the rows.
inline void soften(const ForwardMemory& m, std::int64_t keys, std::int64_t at, std::int64_t width) {
  constexpr int kVectors = gemm::kVectors;
  const auto place = [at](int v) { return at + v * vectors::kWidth; };
  float* const end = m.scores + keys * kPanel;
  Floats most[kVectors], base[kVectors], sum[kVectors];
  for (int v = 0; v < kVectors; ++v) most[v] = vectors::load(m.most + place(v));
  for (const float* row = m.scores; row < end; row += kPanel) {
    for (int v = 0; v < kVectors; ++v) {
      most[v] = vectors::larger(most[v], vectors::load(row + v * vectors::kWidth));
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    vectors::store(m.most + place(v), most[v]);
    base[v] = vectors::load(m.base + place(v));
    const Ints moves =
        (most[v] > base[v] + kFar) | ((most[v] < base[v] - kFar) & (most[v] > kNever));
    if (vectors::any(moves)) base[v] = move_bases(m, moves, most[v], place(v), width);
    sum[v] = vectors::load(m.sum + place(v));
  }
  for (float* row = m.scores; row < end; row += kPanel) {
    for (int v = 0; v < kVectors; ++v) {
      float* const scores = row + v * vectors::kWidth;
      const Floats e = vectors::power_of_two(vectors::load(scores) - base[v]);
      sum[v] += e;
      vectors::store(scores, e);
    }
  }
  for (int v = 0; v < kVectors; ++v) vectors::store(m.sum + place(v), sum[v]);
}

// One panel of a head's queries, [first, first + count) of the tile, over one tile of keys.
inline void attend(const ForwardMemory& m, std::int64_t head, std::int64_t first,
                   std::int64_t count, const Seen& seen, std::int64_t D) {
  if (!seen.any(first, first + count)) return;
  const std::int64_t width = padded(D), at = head * kQueriesForward + first;
  const std::int64_t from = seen.from(first), keys = seen.to(first + count - 1) - from;
  multiply_turned(seen, first, from, keys, m.keys + from * width, m.q + at * D, D, m.scores,
                  kPanel);
  if (!seen.all(first, first + count)) hide(seen, first, from, keys, kNever, m.scores, kPanel);
  soften(m, keys, at, width);
  each_part(count, [&](std::int64_t i, std::int64_t rows) {
    const std::int64_t depth = seen.to(first + i + rows - 1) - from;
    add_rows<gemm::Rows::kTogether>(rows, {m.scores + i, kPanel}, m.values + from * width, depth,
                                    width, m.out + (at + i) * width, width);
  });
}

template <typename T>
void write(const Forward& f, const ForwardMemory& m, std::int64_t group, const Tile& queries) {
  const std::int64_t A = f.in.size.A, G = f.in.size.G, D = f.in.size.D;
  const std::int64_t width = padded(D), heads = A / G;
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t i = 0; i < queries.count; ++i) {
      const std::int64_t to = (queries.first + i) * A + group * heads + head;
      const std::int64_t at = head * kQueriesForward + i;
      const float share = 1.0F / m.sum[at];
      vectors::each(D, [&](std::int64_t d, auto lanes) {
        lanes.put(static_cast<T*>(f.out) + to * D + d, share * lanes.get(m.out + at * width + d));
      });
      f.lse[to] = kLn2 * m.base[at] + std::log(m.sum[at]);
    }
  }
}

// All heads of one group of one tile of queries.
template <typename T>
void forward_tile(const Forward& f, const Tree& tree, const ForwardMemory& m, std::int64_t group,
                  const Tile& queries) {
  const std::int64_t A = f.in.size.A, G = f.in.size.G, D = f.in.size.D;
  const std::int64_t width = padded(D), heads = A / G;
  const std::int64_t rows = gemm::groups(queries.count, kPanel) * kPanel;
  const T* q = static_cast<const T*>(f.in.q) + (queries.first * A + group * heads) * D;
  for (std::int64_t head = 0; head < heads; ++head) {
    const std::int64_t at = head * kQueriesForward;
    turn_rows(q + head * D, A * D, queries.count, D, m.q + at * D);
    std::fill_n(m.out + at * width, rows * width, 0.0F);
    std::fill_n(m.sum + at, rows, 0.0F);
    std::fill_n(m.most + at, rows, kNever);
    std::fill_n(m.base + at, rows, 0.0F);
  }
  for (const std::int64_t segment : tree.path(queries.segment)) {
    tree.each_tile(segment, kKeys, [&](const Tile& keys) {
      const Seen seen(queries, keys, f.in.window);
      if (!seen.any(0, queries.count)) return;
      const std::int64_t at = (keys.first * G + group) * D;
      widen_rows(static_cast<const T*>(f.in.k) + at, G * D, keys.count, D, f.in.scale * kLog2e,
                 m.keys);
      widen_rows(static_cast<const T*>(f.in.v) + at, G * D, keys.count, D, 1.0F, m.values);
      for (std::int64_t head = 0; head < heads; ++head) {
        gemm::each_panel(queries.count, [&](std::int64_t first, std::int64_t count) {
          attend(m, head, first, count, seen, D);
        });
      }
    });
  }
  write<T>(f, m, group, queries);
}

template <typename T>
void forward_of(const Forward& f, int threads) {
  const Tree tree(f.in.segments);
  std::vector<Tile> tiles = tree.tiles(kQueriesForward);
  // From each segment's last, which sees the most, so that threads end at nearly one time.
  std::reverse(tiles.begin(), tiles.end());
  const std::int64_t G = f.in.size.G;
  parallel(static_cast<std::int64_t>(tiles.size()) * G, threads, [&](auto next) {
    const ForwardMemory memory(f.in.size);
    for (std::int64_t i = next(); i < static_cast<std::int64_t>(tiles.size()) * G; i = next()) {
      forward_tile<T>(f, tree, memory, i % G, tiles[static_cast<std::size_t>(i / G)]);
    }
  });
}

}  // namespace crucible::varlen_attention::cpu
