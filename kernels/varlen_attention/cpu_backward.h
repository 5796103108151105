// The backward of varlen_attention: one head of one tree of segments at a time, so that what the
// queries of several segments add to a key is added in one order. Scores are computed again from
// the queries, the keys and the saved logarithms.
#pragma once

#include <utility>
#include <vector>

#include "../common/threads.h"
#include "cpu_tiles.h"

namespace crucible::varlen_attention::cpu {

// One tile of keys, packed once for all queries of the tree: keys and values as panels, and the
// keys' rows.
struct Packed {
  Tile tile;
  const float *keys, *values, *rows;
};

// Where one thread works.
struct BackwardMemory {
  explicit BackwardMemory(const Size& size) {
    const std::int64_t width = padded(size.D);
    float* next = scratch.take(3 * kQueries * width + 2 * kQueries * kKeys + 2 * kQueries);
    const auto part = [&next](std::int64_t count) { return std::exchange(next, next + count); };
    q = part(kQueries * width);
    dout = part(kQueries * width);
    dq = part(kQueries * width);
    weights = part(kQueries * kKeys);
    slopes = part(kQueries * kKeys);
    along = part(kQueries);
    lse = part(kQueries);
  }
  gemm::Scratch scratch, packed;
  float *q, *dout, *dq;     // [kQueries, padded(D)]
  float *weights, *slopes;  // of attention, and the scores' gradients, [kQueries, kKeys]
  float *along, *lse;       // [kQueries]; dout . out, and the saved logarithms
};

// One head's keys and values over the segments of one tree, by segment.
template <typename T>
std::vector<std::vector<Packed>> pack_tree(const Backward& b, const Tree& tree,
                                           const std::vector<std::int64_t>& segments,
                                           std::int64_t head, BackwardMemory& m) {
  const Size& s = b.in.size;
  const std::int64_t stride = s.G * s.D, size = kKeys * (2 * s.D + padded(s.D));
  std::int64_t tiles = 0;
  for (const std::int64_t i : segments) tiles += gemm::groups(tree.length(i), kKeys);
  float* next = m.packed.take(tiles * size);
  std::vector<std::vector<Packed>> found(static_cast<std::size_t>(b.in.segments.count));
  for (const std::int64_t i : segments) {
    tree.each_tile(i, kKeys, [&](const Tile& tile) {
      const std::int64_t at = tile.first * stride + head / (s.A / s.G) * s.D;
      const T* k = static_cast<const T*>(b.in.k) + at;
      float *values = next + kKeys * s.D, *rows = values + kKeys * s.D;
      turn_rows(k, stride, tile.count, s.D, next);
      turn_rows(static_cast<const T*>(b.in.v) + at, stride, tile.count, s.D, values);
      widen_rows(k, stride, tile.count, s.D, 1.0F, rows);
      found[static_cast<std::size_t>(i)].push_back({tile, next, values, rows});
      next += size;
    });
  }
  return found;
}

// weights = exp(scores - lse), 0 where a query does not see; slopes = weights (slopes - along).
inline void slope_row(float* weights, float* slopes, std::int64_t from, std::int64_t to, float lse,
                      float along) {
  const std::int64_t end = in_vectors(to);
  std::fill(weights, weights + from, kNever);
  std::fill(weights + to, weights + end, kNever);
  std::fill(slopes + to, slopes + kKeys, 0.0F);
  for (std::int64_t j = 0; j < end; j += vectors::kWidth) {
    const Floats p = vectors::exponential(vectors::load(weights + j) - lse);
    vectors::store(weights + j, p);
    vectors::store(slopes + j, p * (vectors::load(slopes + j) - along));
  }
  std::fill(weights + end, weights + kKeys, 0.0F);
}

// One tile of queries with one tile of keys: adds to dq, and to the tile's dk and dv.
inline void descend(const Backward& b, const BackwardMemory& m, std::int64_t head,
                    const Tile& queries, const Packed& packed) {
  const std::int64_t D = b.in.size.D, width = padded(D);
  const Seen seen(queries, packed.tile, b.in.window);
  if (!seen.any(queries.count)) return;
  using gemm::Rows;
  each_part(queries.count, [&](std::int64_t first, std::int64_t count) {
    const std::int64_t keys = seen.to(first + count - 1), at = first * width;
    float *weights = m.weights + first * kKeys, *slopes = m.slopes + first * kKeys;
    multiply_turned(m.q + at, count, packed.keys, keys, D, weights);
    multiply_turned(m.dout + at, count, packed.values, keys, D, slopes);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t to = seen.to(first + i), from = std::min(seen.from(first + i), to);
      slope_row(weights + i * kKeys, slopes + i * kKeys, from, to, m.lse[first + i],
                m.along[first + i]);
    }
    add_rows<Rows::kApart>(count, {slopes, kKeys}, packed.rows, keys, width, m.dq + at, width);
  });
  float* dk = b.workspace + (head * b.in.size.T + packed.tile.first) * D;
  float* dv = dk + b.in.size.A * b.in.size.T * D;
  each_part(packed.tile.count, [&](std::int64_t first, std::int64_t count) {
    const std::int64_t from = std::max<std::int64_t>(0, first - seen.ahead);  // who sees the first
    const std::int64_t depth = queries.count - from, at = from * kKeys + first;
    if (depth <= 0) return;
    add_rows<Rows::kTogether>(count, {m.weights + at, kKeys}, m.dout + from * width, depth, D,
                              dv + first * D, D);
    add_rows<Rows::kTogether>(count, {m.slopes + at, kKeys}, m.q + from * width, depth, D,
                              dk + first * D, D);
  });
}

// The queries of a tile, ready; and at the end what they found.
template <typename T>
void read_queries(const Backward& b, const BackwardMemory& m, std::int64_t head,
                  const Tile& queries) {
  const Size& s = b.in.size;
  const std::int64_t width = padded(s.D), first = queries.first * s.A + head;
  const T* out = static_cast<const T*>(b.out);
  widen_rows(static_cast<const T*>(b.in.q) + first * s.D, s.A * s.D, queries.count, s.D, b.in.scale,
             m.q);
  widen_rows(static_cast<const T*>(b.dout) + first * s.D, s.A * s.D, queries.count, s.D, 1.0F,
             m.dout);
  for (std::int64_t i = 0; i < queries.count; ++i) {
    const std::int64_t at = first + i * s.A;
    Floats sum{};
    vectors::each(s.D, [&](std::int64_t d, auto lanes) {
      sum += lanes.get(m.dout + i * width + d) * lanes.get(out + at * s.D + d);
    });
    m.along[i] = vectors::sum_of(sum);
    m.lse[i] = b.lse[at];
  }
  std::fill(m.dq, m.dq + queries.count * width, 0.0F);
}

template <typename T>
void write_dq(const Backward& b, const BackwardMemory& m, std::int64_t head, const Tile& queries) {
  const Size& s = b.in.size;
  const std::int64_t width = padded(s.D);
  for (std::int64_t i = 0; i < queries.count; ++i) {
    T* to = static_cast<T*>(b.dq) + ((queries.first + i) * s.A + head) * s.D;
    vectors::each(s.D, [&](std::int64_t d, auto lanes) {
      lanes.put(to + d, b.in.scale * lanes.get(m.dq + i * width + d));
    });
  }
}

// One head of one tree: dq of its queries, and the head's part of dk and dv in the workspace.
template <typename T>
void backward_tree(const Backward& b, const Tree& tree, const std::vector<std::int64_t>& segments,
                   std::int64_t head, BackwardMemory& m) {
  const Size& s = b.in.size;
  for (const std::int64_t i : segments) {
    for (const std::int64_t which : {std::int64_t{0}, s.A}) {
      float* part = b.workspace + ((which + head) * s.T + b.in.segments.bounds[i]) * s.D;
      std::fill(part, part + tree.length(i) * s.D, 0.0F);
    }
  }
  const auto packed = pack_tree<T>(b, tree, segments, head, m);
  for (const std::int64_t i : segments) {
    const std::vector<std::int64_t> path = tree.path(i);
    tree.each_tile(i, kQueries, [&](const Tile& queries) {
      read_queries<T>(b, m, head, queries);
      for (const std::int64_t j : path) {
        for (const Packed& keys : packed[static_cast<std::size_t>(j)]) {
          descend(b, m, head, queries, keys);
        }
      }
      write_dq<T>(b, m, head, queries);
    });
  }
}

// What the heads of a group found for their keys and values, in order.
template <typename T>
void add_heads(const Backward& b, std::int64_t token) {
  const Size& s = b.in.size;
  const std::int64_t heads = s.A / s.G;
  for (std::int64_t group = 0; group < s.G; ++group) {
    const std::int64_t to = (token * s.G + group) * s.D;
    const float* dk = b.workspace + (group * heads * s.T + token) * s.D;
    const float* dv = dk + s.A * s.T * s.D;
    vectors::each(s.D, [&](std::int64_t d, auto lanes) {
      Floats keys{}, values{};
      for (std::int64_t head = 0; head < heads; ++head) {
        keys += lanes.get(dk + head * s.T * s.D + d);
        values += lanes.get(dv + head * s.T * s.D + d);
      }
      lanes.put(static_cast<T*>(b.dk) + to + d, keys);
      lanes.put(static_cast<T*>(b.dv) + to + d, values);
    });
  }
}

template <typename T>
void backward_of(const Backward& b, int threads) {
  const Tree tree(b.in.segments);
  std::vector<std::vector<std::int64_t>> trees(static_cast<std::size_t>(b.in.segments.count));
  for (std::int64_t i = 0; i < b.in.segments.count; ++i) {
    trees[static_cast<std::size_t>(tree.root(i))].push_back(i);
  }
  const std::int64_t items = b.in.segments.count * b.in.size.A;
  parallel(items, threads, [&](auto next) {
    BackwardMemory memory(b.in.size);
    for (std::int64_t i = next(); i < items; i = next()) {
      const auto& segments = trees[static_cast<std::size_t>(i / b.in.size.A)];
      if (!segments.empty()) backward_tree<T>(b, tree, segments, i % b.in.size.A, memory);
    }
  });
  constexpr std::int64_t kTogether = 32;  // tokens that a thread takes at a time
  parallel_for(gemm::groups(b.in.size.T, kTogether), threads, [&](std::int64_t chunk) {
    const std::int64_t end = std::min(b.in.size.T, (chunk + 1) * kTogether);
    for (std::int64_t t = chunk * kTogether; t < end; ++t) add_heads<T>(b, t);
  });
}

}  // namespace crucible::varlen_attention::cpu
