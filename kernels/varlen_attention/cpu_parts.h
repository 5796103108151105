// How the backward of varlen_attention is shared out: the queries of a tree of segments in parts of
// nearly the same work, each with sums of its own for the keys, which are added in order at the
// end. Parts depend on sizes alone, so threads change no bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu_tiles.h"

namespace crucible::varlen_attention::cpu {

// A tree has a part for every so many tokens, which keeps what its sums cost well below its work,
// and up to as many items of work, a part and a group each, as there are heads, or 12: two, three,
// four or six threads end at one time with these.
constexpr std::int64_t kTokens = 256;
constexpr std::int64_t kItems = 12;

struct Part {
  std::vector<Tile> queries;
  std::vector<std::int64_t> segments;  // that they see, from the first on
  std::int64_t first, end;             // tokens that they see lie between these
  std::int64_t work;                   // pairs of a query and a key
  std::int64_t sums;                   // where its dk and dv are, [2, G, end - first, D]

  // Tokens of one of the segments.
  std::int64_t tokens(const Segments& s, std::int64_t segment) const {
    return std::min(s.bounds[segment + 1], end) - s.bounds[segment];
  }
  bool sees(const Tile& keys) const {
    return keys.first < end && std::binary_search(segments.begin(), segments.end(), keys.segment);
  }
};

// Pairs of one of its queries and a key that it sees, as if all saw as far as the middle one.
inline std::int64_t pairs(const Tile& queries, std::int64_t window) {
  const std::int64_t seen = queries.position + (queries.count + 1) / 2;
  return queries.count * (window == 0 ? seen : std::min(seen, window));
}

class Parts {
 public:
  Parts(const Inputs& in, const Tree& tree) : trees_(static_cast<std::size_t>(in.segments.count)) {
    std::vector<std::vector<Tile>> tiles(trees_.size());
    for (std::int64_t i = 0; i < in.segments.count; ++i) {
      auto& of_tree = tiles[static_cast<std::size_t>(tree.root(i))];
      tree.each_tile(i, kQueriesBackward, [&](const Tile& tile) { of_tree.push_back(tile); });
    }
    for (std::size_t i = 0; i < trees_.size(); ++i) divide(in, tree, tiles[i], trees_[i]);
  }

  const std::vector<Part>& of(std::int64_t root) const {
    return trees_[static_cast<std::size_t>(root)];
  }
  std::int64_t sums() const { return sums_; }  // floats that all sums take

  // All parts, those of the most work first.
  std::vector<const Part*> in_order() const {
    std::vector<const Part*> found;
    for (const auto& parts : trees_) {
      for (const Part& part : parts) found.push_back(&part);
    }
    std::stable_sort(found.begin(), found.end(),
                     [](const Part* a, const Part* b) { return a->work > b->work; });
    return found;
  }

 private:
  // The tiles of one tree in parts.
  void divide(const Inputs& in, const Tree& tree, const std::vector<Tile>& tiles,
              std::vector<Part>& parts) {
    std::int64_t work = 0, tokens = 0;
    for (const Tile& tile : tiles) work += pairs(tile, in.window), tokens += tile.count;
    const std::int64_t most = gemm::groups(std::max(kItems, in.size.A), in.size.G);
    const std::int64_t count = std::min(gemm::groups(tokens, kTokens), most);
    std::int64_t done = 0, last = -1;
    for (const Tile& tile : tiles) {
      const std::int64_t own = pairs(tile, in.window), index = (done + own / 2) * count / work;
      if (index != last) {
        parts.emplace_back();
        parts.back().first = in.segments.bounds[tree.root(tile.segment)];
      }
      Part& part = parts.back();
      part.queries.push_back(tile);
      part.work += own;
      part.end = tile.first + tile.count;
      for (const std::int64_t i : tree.path(tile.segment)) {
        const auto at = std::lower_bound(part.segments.begin(), part.segments.end(), i);
        if (at == part.segments.end() || *at != i) part.segments.insert(at, i);
      }
      done += own;
      last = index;
    }
    for (Part& part : parts) {
      part.sums = sums_;
      sums_ += 2 * in.size.G * (part.end - part.first) * in.size.D;
    }
  }

  std::vector<std::vector<Part>> trees_;  // by their first segment
  std::int64_t sums_ = 0;
};

}  // namespace crucible::varlen_attention::cpu
