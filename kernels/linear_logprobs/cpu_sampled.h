// The sampled gradient: which entries of a softmax are kept, and what they count.
//
// An entry of probability p is kept if p >= u eps, with u in (0, 1] a hash of its token and its row
// of the head. It counts max(p, eps) then, so its mean is p. While the vocabulary passes by, only
// sums so far are known, which bound p from above: what may be kept is listed, and decided on when
// the whole sum is there. So the result does not depend on what was known when.
#pragma once

#include <vector>

#include "../common/hash.h"
#include "cpu_softmax.h"

namespace crucible::linear_logprobs::cpu {
namespace {

// An entry that may be kept: its probability is `e` times exp(top - lse).
struct Entry {
  std::int32_t row;
  std::int32_t token;  // in its block
  float e;
  float top;
};
using Entries = std::vector<Entry>;  // of a token, in the order of their rows

// What is known of the tokens of a block while the vocabulary passes by.
struct Known {
  float* lse;           // of the target and the slices that have passed
  std::uint32_t* keys;  // of the hash
};

using Words = std::uint32_t __attribute__((vector_size(4 * kWidth)));
using UnalignedWords =
    std::uint32_t __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));

// u in steps of 2^-24, which float32 holds exactly.
inline float uniform(std::uint32_t key, std::uint32_t row) {
  return static_cast<float>((mix(row ^ key) >> 8) + 1) * 0x1p-24F;
}

inline Vec uniform(Words keys, std::uint32_t row) {
  Words h = keys ^ row;
  h ^= h >> 16;
  h *= 0x7feb352dU;
  h ^= h >> 15;
  h *= 0x846ca68bU;
  h ^= h >> 16;
  return __builtin_convertvector(reinterpret_cast<IntVec>((h >> 8) + 1), Vec) * 0x1p-24F;
}

// Of the tokens of one panel: lists what may be kept among the exponentials of rows [first, first +
// rows). Everything at the panel's first token, which is `token` in its block.
inline void list_entries(std::int64_t first, std::int64_t rows, std::int64_t token,
                         const float* exponentials, std::int64_t stride, const Part& part,
                         const Known& known, float eps, Entries& into) {
  // Below the rounding between a sum so far and the whole: nothing that is kept goes missing.
  constexpr float kSlack = 1.0F - 0x1p-12F;
  constexpr std::int64_t kTogether = 4;  // rows that are looked at before any lane is
  for (int half = 0; half < kColumns; half += kWidth) {
    const std::int64_t at = token + half;
    const Vec top = load(part.top + at);
    const Vec base = choose(top > all(-kInfinity), top, Vec{});
    const Vec gap = load(known.lse + at) - base;
    const Vec before = exponential(choose(gap < all(80.0F), gap, all(80.0F)));
    const Vec least = kSlack * eps * (load(part.sum + at) + before);
    const Words keys = *reinterpret_cast<const UnalignedWords*>(known.keys + at);
    for (std::int64_t v = 0; v < rows; v += kTogether) {
      const std::int64_t count = std::min(kTogether, rows - v);
      IntVec keeps[kTogether], found{};
      for (std::int64_t i = 0; i < count; ++i) {
        const auto row = static_cast<std::uint32_t>(first + v + i);
        keeps[i] = load(exponentials + (v + i) * stride + half) >= uniform(keys, row) * least;
        found |= keeps[i];
      }
      if (!any(found)) continue;
      for (std::int64_t i = 0; i < count; ++i) {
        for (int lane = 0; lane < kWidth; ++lane) {
          if (keeps[i][lane] == 0) continue;
          into.push_back({static_cast<std::int32_t>(first + v + i),
                          static_cast<std::int32_t>(at + lane),
                          exponentials[(v + i) * stride + half + lane], base[lane]});
        }
      }
    }
  }
}

// Decides on the entries of a block of tokens: those that are kept move to the front, with what
// they count in the place of `e`. Adds to `sure` [tokens] the probability of those above eps.
inline void keep_entries(const float* lses, const std::uint32_t* keys, float eps, Entries& entries,
                         float* sure) {
  // A token's entries come in runs of one top.
  constexpr std::int64_t kMost = kTokens;
  float tops[kMost], factors[kMost];
  std::fill_n(tops, kMost, kInfinity);
  std::size_t kept = 0;
  for (const Entry& entry : entries) {
    const auto t = static_cast<std::size_t>(entry.token);
    if (tops[t] != entry.top) {
      tops[t] = entry.top;
      factors[t] = std::exp(entry.top - lses[t]);
    }
    const float p = entry.e * factors[t];
    if (p < uniform(keys[t], static_cast<std::uint32_t>(entry.row)) * eps) continue;
    if (p >= eps) sure[t] += p;
    entries[kept++] = {entry.row, entry.token, std::max(p, eps), entry.top};
  }
  entries.resize(kept);
}

}  // namespace
}  // namespace crucible::linear_logprobs::cpu
