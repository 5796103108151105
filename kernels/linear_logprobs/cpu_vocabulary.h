// The vocabulary as a tree: a fixed number of slices, and what two neighbours say is merged pair by
// pair. A run is a subtree that one thread walks alone. However many runs there are, the same pairs
// are merged, so the bits of a result do not depend on how the work is shared out.
#pragma once

#include "cpu_softmax.h"

namespace crucible::linear_logprobs::cpu {
namespace {

struct Vocabulary {
  explicit Vocabulary(std::int64_t V) : V(V) {
    while (slices < kMostSlices && V / (2 * slices) >= kLeastRows) slices *= 2;
    rows = groups(groups(V, kBlock), slices) * kBlock;
  }

  // As few runs as give each thread several items to take, where there are `blocks` of tokens.
  std::int64_t runs(std::int64_t blocks, int threads) const {
    std::int64_t count = 1;
    while (threads > 1 && count < slices && blocks * count < kItems * threads) count *= 2;
    return count;
  }

  // Calls f(first row, rows) for each block of a slice; the last slices may have none.
  template <typename F>
  void each_block(std::int64_t slice, F&& f) const {
    const std::int64_t end = std::min(V, (slice + 1) * rows);
    for (std::int64_t v = slice * rows; v < end; v += kBlock) f(v, std::min(kBlock, end - v));
  }

  static constexpr std::int64_t kMostSlices = 16;
  static constexpr std::int64_t kLeastRows = 2 * kBlock;
  static constexpr std::int64_t kItems = 4;
  std::int64_t V;
  std::int64_t slices = 1;  // a power of two
  std::int64_t rows;        // of a slice
};

}  // namespace
}  // namespace crucible::linear_logprobs::cpu
