// The forward of varlen_attention: a tile of queries passes over the tiles of keys that it sees,
// all heads of a group at once, with a running softmax.
#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include "../common/threads.h"
#include "cpu_tiles.h"

namespace crucible::varlen_attention::cpu {

// Where one thread works.
struct ForwardMemory {
  explicit ForwardMemory(const Size& size) {
    const std::int64_t width = padded(size.D), heads = size.A / size.G;
    const std::int64_t rows = heads * kQueries;
    float* next = scratch.take(2 * rows * width + kKeys * (size.D + width + gemm::kRows) +
                               rows * (1 + vectors::kWidth));
    const auto part = [&next](std::int64_t count) { return std::exchange(next, next + count); };
    q = part(rows * width);
    out = part(rows * width);
    turned = part(kKeys * size.D);
    values = part(kKeys * width);
    scores = part(gemm::kRows * kKeys);
    sum = part(rows * vectors::kWidth);
    most = part(rows);
  }
  gemm::Scratch scratch;
  float *q, *out;          // [heads of the group, kQueries, padded(D)]
  float *turned, *values;  // a tile of keys as panels; one of values, [kKeys, padded(D)]
  float* scores;           // [kRows, kKeys]
  float* sum;              // [heads of the group, kQueries, kWidth]; its lanes are added at the end
  float* most;             // [heads of the group, kQueries]
};

// The first `to` of one row of scores become exponentials, 0 where it does not see; returns by how
// much what was summed before shrinks.
inline float soften(float* row, std::int64_t from, std::int64_t to, float* most, float* sum) {
  const std::int64_t end = in_vectors(to);
  std::fill(row, row + from, kNever);
  std::fill(row + to, row + end, kNever);
  Floats top = vectors::all(*most);
  for (std::int64_t j = 0; j < end; j += vectors::kWidth) {
    const Floats x = vectors::load(row + j);
    top = vectors::choose(x > top, x, top);
  }
  const float now = vectors::most_of(top);
  Floats total{};
  for (std::int64_t j = 0; j < end; j += vectors::kWidth) {
    const Floats e = vectors::exponential(vectors::load(row + j) - now);
    total += e;
    vectors::store(row + j, e);
  }
  const float shrinks = now == *most ? 1.0F : vectors::exponential(vectors::all(*most - now))[0];
  vectors::store(sum, shrinks * vectors::load(sum) + total);
  *most = now;
  return shrinks;
}

// One head's queries over one tile of keys.
inline void attend(const ForwardMemory& m, std::int64_t head, const Tile& queries, const Seen& seen,
                   std::int64_t D) {
  const std::int64_t width = padded(D);
  each_part(queries.count, [&](std::int64_t first, std::int64_t count) {
    const std::int64_t keys = seen.to(first + count - 1), at = head * kQueries + first;
    if (keys == 0) return;
    float* out = m.out + at * width;
    multiply_turned(m.q + at * width, count, m.turned, keys, D, m.scores);
    for (std::int64_t i = 0; i < count; ++i) {
      float* row = m.scores + i * kKeys;
      const std::int64_t from = seen.from(first + i), to = seen.to(first + i);
      if (from >= to) {
        std::fill(row, row + keys, 0.0F);
        continue;
      }
      std::fill(row + to, row + keys, 0.0F);
      const float shrinks =
          soften(row, from, to, m.most + at + i, m.sum + (at + i) * vectors::kWidth);
      if (shrinks == 1.0F) continue;
      for (std::int64_t d = 0; d < width; d += vectors::kWidth) {
        vectors::store(out + i * width + d, shrinks * vectors::load(out + i * width + d));
      }
    }
    add_rows<gemm::Rows::kApart>(count, {m.scores, kKeys}, m.values, keys, width, out, width);
  });
}

template <typename T>
void write(const Forward& f, const ForwardMemory& m, std::int64_t group, const Tile& queries) {
  const std::int64_t A = f.in.size.A, G = f.in.size.G, D = f.in.size.D;
  const std::int64_t width = padded(D), heads = A / G;
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t i = 0; i < queries.count; ++i) {
      const std::int64_t to = (queries.first + i) * A + group * heads + head;
      const std::int64_t at = head * kQueries + i;
      const float sum = vectors::sum_of(vectors::load(m.sum + at * vectors::kWidth));
      vectors::each(D, [&](std::int64_t d, auto lanes) {
        lanes.put(static_cast<T*>(f.out) + to * D + d, lanes.get(m.out + at * width + d) / sum);
      });
      f.lse[to] = m.most[at] + std::log(sum);
    }
  }
}

// All heads of one group of one tile of queries.
template <typename T>
void forward_tile(const Forward& f, const Tree& tree, const ForwardMemory& m, std::int64_t group,
                  const Tile& queries) {
  const std::int64_t A = f.in.size.A, G = f.in.size.G, D = f.in.size.D;
  const std::int64_t width = padded(D), heads = A / G;
  const T* q = static_cast<const T*>(f.in.q) + (queries.first * A + group * heads) * D;
  for (std::int64_t head = 0; head < heads; ++head) {
    widen_rows(q + head * D, A * D, queries.count, D, f.in.scale, m.q + head * kQueries * width);
  }
  std::fill(m.out, m.out + heads * kQueries * width, 0.0F);
  std::fill(m.sum, m.sum + heads * kQueries * vectors::kWidth, 0.0F);
  std::fill(m.most, m.most + heads * kQueries, kNever);
  for (const std::int64_t segment : tree.path(queries.segment)) {
    tree.each_tile(segment, kKeys, [&](const Tile& keys) {
      const Seen seen(queries, keys, f.in.window);
      if (!seen.any(queries.count)) return;
      const std::int64_t at = (keys.first * G + group) * D;
      turn_rows(static_cast<const T*>(f.in.k) + at, G * D, keys.count, D, m.turned);
      widen_rows(static_cast<const T*>(f.in.v) + at, G * D, keys.count, D, 1.0F, m.values);
      for (std::int64_t head = 0; head < heads; ++head) attend(m, head, queries, seen, D);
    });
  }
  write<T>(f, m, group, queries);
}

template <typename T>
void forward_of(const Forward& f, int threads) {
  const Tree tree(f.in.segments);
  std::vector<Tile> tiles;
  for (std::int64_t i = 0; i < f.in.segments.count; ++i) {
    tree.each_tile(i, kQueries, [&](const Tile& tile) { tiles.push_back(tile); });
  }
  const std::int64_t G = f.in.size.G;
  parallel(static_cast<std::int64_t>(tiles.size()) * G, threads, [&](auto next) {
    const ForwardMemory memory(f.in.size);
    for (std::int64_t i = next(); i < static_cast<std::int64_t>(tiles.size()) * G; i = next()) {
      forward_tile<T>(f, tree, memory, i % G, tiles[static_cast<std::size_t>(i / G)]);
    }
  });
}

}  // namespace crucible::varlen_attention::cpu
