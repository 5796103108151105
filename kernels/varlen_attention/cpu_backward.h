// The backward of varlen_attention: a part of one tree's queries with one group of heads at a time.
// Scores are computed again from the queries, the keys and the saved logarithms.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "../common/threads.h"
#include "cpu_parts.h"
#include "cpu_tiles.h"

namespace crucible::varlen_attention::cpu {

// One tile of keys, widened once for all heads and queries of a part: [kKeys, padded(D)] each.
struct Widened {
  Tile tile;
  const float *keys, *values;
};

// Where one thread works.
struct BackwardMemory {
  explicit BackwardMemory(const Size& size) {
    constexpr std::int64_t kRows = kQueriesBackward;
    const std::int64_t width = padded(size.D);
    float* next = scratch.take(kRows * (3 * width + 2 * size.D + 2 * kKeys + 2));
    const auto part = [&next](std::int64_t count) { return std::exchange(next, next + count); };
    q = part(kRows * width);
    dout = part(kRows * width);
    dq = part(kRows * width);
    turned_q = part(kRows * size.D);
    turned_dout = part(kRows * size.D);
    weights = part(kKeys * kRows);
    slopes = part(kKeys * kRows);
    along = part(kRows);
    lse = part(kRows);
  }
  gemm::Scratch scratch, widened;
  float *q, *dout, *dq;           // [kQueriesBackward, padded(D)]
  float *turned_q, *turned_dout;  // [panels, D, kPanel]
  float *weights, *slopes;        // of attention; the scores' gradients, [kKeys, kQueriesBackward]
  float *along, *lse;             // [kQueriesBackward]; dout . out, and the saved logarithms of 2
};

// What a part sees of one group's keys and values.
template <typename T>
std::vector<Widened> widen_part(const Backward& b, const Tree& tree, const Part& part,
                                std::int64_t group, BackwardMemory& m) {
  const Size& s = b.in.size;
  const std::int64_t stride = s.G * s.D, size = kKeys * padded(s.D);
  std::int64_t tiles = 0;
  for (const std::int64_t i : part.segments) tiles += gemm::groups(tree.length(i), kKeys);
  float* next = m.widened.take(2 * tiles * size);
  std::vector<Widened> found;
  for (const std::int64_t i : part.segments) {
    tree.each_tile(i, kKeys, [&](const Tile& tile) {
      if (tile.first >= part.end) return;
      const std::int64_t at = (tile.first * s.G + group) * s.D;
      widen_rows(static_cast<const T*>(b.in.k) + at, stride, tile.count, s.D, b.in.scale * kLog2e,
                 next);
      widen_rows(static_cast<const T*>(b.in.v) + at, stride, tile.count, s.D, 1.0F, next + size);
      found.push_back({tile, next, next + size});
      next += 2 * size;
    });
  }
  return found;
}

// A panel's weights = exp(scores - lse), 0 where a query does not see; slopes = weights (slopes -
// along), of keys [from, from + count).
inline void slope_panel(const BackwardMemory& m, std::int64_t first, std::int64_t from,
                        std::int64_t count) {
  constexpr int kVectors = gemm::kVectors;
  Floats lse[kVectors], along[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    lse[v] = vectors::load(m.lse + first + v * vectors::kWidth);
    along[v] = vectors::load(m.along + first + v * vectors::kWidth);
  }
  const std::int64_t at = from * kQueriesBackward + first;
  float *weights = m.weights + at, *slopes = m.slopes + at;
  for (std::int64_t j = 0; j < count; ++j) {
    for (int v = 0; v < kVectors; ++v) {
      const std::int64_t i = j * kQueriesBackward + v * vectors::kWidth;
      const Floats p = vectors::power_of_two(vectors::load(weights + i) - lse[v]);
      vectors::store(weights + i, p);
      vectors::store(slopes + i, p * (vectors::load(slopes + i) - along[v]));
    }
  }
}

// The weights and slopes of a panel of queries, [first, end), for the keys [from, to) of a tile.
inline void score_panel(const BackwardMemory& m, const Widened& tile, const Seen& seen,
                        std::int64_t first, std::int64_t end, std::int64_t from, std::int64_t to,
                        std::int64_t D) {
  const auto at = [first](std::int64_t key) { return key * kQueriesBackward + first; };
  const bool any = seen.any(first, end);
  const std::int64_t start = any ? seen.from(first) : to, stop = any ? seen.to(end - 1) : to;
  for (float* scores : {m.weights, m.slopes}) {
    for (std::int64_t j = from; j < start; ++j) std::fill_n(scores + at(j), kPanel, 0.0F);
    for (std::int64_t j = stop; j < to; ++j) std::fill_n(scores + at(j), kPanel, 0.0F);
  }
  const std::int64_t keys = stop - start, rows = start * padded(D);
  float *weights = m.weights + at(start), *slopes = m.slopes + at(start);
  multiply_turned(seen, first, start, keys, tile.keys + rows, m.turned_q + first * D, D, weights,
                  kQueriesBackward);
  multiply_turned(seen, first, start, keys, tile.values + rows, m.turned_dout + first * D, D,
                  slopes, kQueriesBackward);
  if (!seen.all(first, end)) {
    hide(seen, first, start, keys, kNever, weights, kQueriesBackward);
    hide(seen, first, start, keys, 0.0F, slopes, kQueriesBackward);
  }
  slope_panel(m, first, start, keys);
}

// One head's tile of queries with one tile of keys: adds to dq, and to the tile's dk and dv.
inline void descend(const Backward& b, const BackwardMemory& m, const Tile& queries,
                    const Widened& tile, float* dk, float* dv) {
  const Seen seen(queries, tile.tile, b.in.window);
  if (!seen.any(0, queries.count)) return;
  using gemm::Rows;
  const std::int64_t D = b.in.size.D, width = padded(D);
  const std::int64_t from = seen.from(0), to = seen.to(queries.count - 1);
  gemm::each_panel(queries.count, [&](std::int64_t first, std::int64_t count) {
    score_panel(m, tile, seen, first, first + count, from, to, D);
  });
  each_part(queries.count, [&](std::int64_t first, std::int64_t count) {
    const std::int64_t start = seen.from(first), keys = seen.to(first + count - 1) - start;
    add_rows<Rows::kTogether>(count,
                              {m.slopes + start * kQueriesBackward + first, kQueriesBackward},
                              tile.keys + start * width, keys, width, m.dq + first * width, width);
  });
  each_part(to - from, [&](std::int64_t first, std::int64_t count) {
    const std::int64_t key = from + first, start = seen.first_to_see(key);
    const std::int64_t depth = std::min(seen.end_of(key + count - 1), queries.count) - start;
    const std::int64_t at = key * kQueriesBackward + start;
    add_rows<Rows::kApart>(count, {m.weights + at, kQueriesBackward}, m.dout + start * width, depth,
                           D, dv + key * D, D);
    add_rows<Rows::kApart>(count, {m.slopes + at, kQueriesBackward}, m.q + start * width, depth, D,
                           dk + key * D, D);
  });
}

// The queries of a tile, ready; and at the end what they found.
template <typename T>
void read_queries(const Backward& b, const BackwardMemory& m, std::int64_t head,
                  const Tile& queries) {
  const Size& s = b.in.size;
  const std::int64_t width = padded(s.D), first = queries.first * s.A + head;
  const T* out = static_cast<const T*>(b.out);
  widen_rows(static_cast<const T*>(b.in.q) + first * s.D, s.A * s.D, queries.count, s.D, 1.0F, m.q);
  widen_rows(static_cast<const T*>(b.dout) + first * s.D, s.A * s.D, queries.count, s.D, 1.0F,
             m.dout);
  turn_rows(m.q, width, queries.count, s.D, m.turned_q);
  turn_rows(m.dout, width, queries.count, s.D, m.turned_dout);
  for (std::int64_t i = 0; i < queries.count; ++i) {
    const std::int64_t at = first + i * s.A;
    Floats sum{};
    vectors::each(s.D, [&](std::int64_t d, auto lanes) {
      sum += lanes.get(m.dout + i * width + d) * lanes.get(out + at * s.D + d);
    });
    m.along[i] = vectors::sum_of(sum);
    m.lse[i] = kLog2e * b.lse[at];
  }
  for (float* rest : {m.along, m.lse})
    std::fill(rest + queries.count, rest + kQueriesBackward, 0.0F);
  std::fill(m.dq, m.dq + queries.count * width, 0.0F);
}

template <typename T>
void write_dq(const Backward& b, const BackwardMemory& m, std::int64_t head, const Tile& queries) {
  const Size& s = b.in.size;
  const std::int64_t width = padded(s.D);
  for (std::int64_t i = 0; i < queries.count; ++i) {
    T* to = static_cast<T*>(b.dq) + ((queries.first + i) * s.A + head) * s.D;
    vectors::each(s.D, [&](std::int64_t d, auto lanes) {
      lanes.put(to + d, kLn2 * lanes.get(m.dq + i * width + d));
    });
  }
}

// One group of one part: dq of its queries, and the part's sums of dk and dv.
template <typename T>
void backward_part(const Backward& b, const Tree& tree, const Part& part, std::int64_t group,
                   float* sums, BackwardMemory& m) {
  const Size& s = b.in.size;
  const std::int64_t length = part.end - part.first, heads = s.A / s.G;
  float* dk = sums + part.sums + group * length * s.D;
  float* dv = dk + s.G * length * s.D;
  for (const std::int64_t i : part.segments) {
    const std::int64_t at = (b.in.segments.bounds[i] - part.first) * s.D;
    const std::int64_t count = part.tokens(b.in.segments, i) * s.D;
    std::fill_n(dk + at, count, 0.0F);
    std::fill_n(dv + at, count, 0.0F);
  }
  const auto widened = widen_part<T>(b, tree, part, group, m);
  for (const Tile& queries : part.queries) {
    const std::vector<std::int64_t> path = tree.path(queries.segment);
    for (std::int64_t head = group * heads; head < (group + 1) * heads; ++head) {
      read_queries<T>(b, m, head, queries);
      for (const Widened& tile : widened) {
        if (!std::binary_search(path.begin(), path.end(), tile.tile.segment)) continue;
        const std::int64_t at = (tile.tile.first - part.first) * s.D;
        descend(b, m, queries, tile, dk + at, dv + at);
      }
      write_dq<T>(b, m, head, queries);
    }
  }
}

// What the parts of a tree found for a tile's keys and values, in order.
template <typename T>
void add_parts(const Backward& b, const std::vector<Part>& parts, const float* sums,
               const Tile& keys) {
  const Size& s = b.in.size;
  std::vector<const Part*> by;
  for (const Part& part : parts) {
    if (part.sees(keys)) by.push_back(&part);
  }
  for (std::int64_t i = 0; i < keys.count * s.G; ++i) {
    const std::int64_t token = keys.first + i / s.G, group = i % s.G;
    const std::int64_t to = (token * s.G + group) * s.D;
    vectors::each(s.D, [&](std::int64_t d, auto lanes) {
      Floats dk{}, dv{};
      for (const Part* part : by) {
        const std::int64_t length = part->end - part->first;
        const float* at = sums + part->sums + (group * length + token - part->first) * s.D + d;
        dk += lanes.get(at);
        dv += lanes.get(at + s.G * length * s.D);
      }
      lanes.put(static_cast<T*>(b.dk) + to + d, b.in.scale * dk);
      lanes.put(static_cast<T*>(b.dv) + to + d, dv);
    });
  }
}

template <typename T>
void backward_of(const Backward& b, int threads) {
  const Tree tree(b.in.segments);
  const Parts parts(b.in, tree);
  const std::vector<const Part*> order = parts.in_order();
  gemm::Scratch memory;
  float* const sums = memory.take(parts.sums());
  const auto items = static_cast<std::int64_t>(order.size()) * b.in.size.G;
  parallel(items, threads, [&](auto next) {
    BackwardMemory own(b.in.size);
    for (std::int64_t i = next(); i < items; i = next()) {
      const Part& part = *order[static_cast<std::size_t>(i / b.in.size.G)];
      backward_part<T>(b, tree, part, i % b.in.size.G, sums, own);
    }
  });
  const std::vector<Tile> tiles = tree.tiles(kQueriesBackward);
  parallel_for(static_cast<std::int64_t>(tiles.size()), threads, [&](std::int64_t i) {
    const Tile& tile = tiles[static_cast<std::size_t>(i)];
    add_parts<T>(b, parts.of(tree.root(tile.segment)), sums, tile);
  });
}

}  // namespace crucible::varlen_attention::cpu
