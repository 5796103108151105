// What happens to the logits of one panel between two products: statistics and coefficients.
#pragma once

#include <cmath>
#include <limits>

#include "cpu_logits.h"

namespace crucible::linear_logprobs::cpu {
namespace {

// How far a logit may be above the `top` of its token. While all are, no sum has to be rescaled.
constexpr float kHeadroom = 8.0F;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// What a stretch of the vocabulary says of a block of tokens: statistics [tokens], sums
// [H][tokens]. The target's logit stays outside of `top` and `sum`.
struct Part {
  std::int64_t tokens;
  float* top;        // at most kHeadroom below the other tokens' largest logit
  float* sum;        // sum over them of exp(logit - top)
  float* total;      // sum of all logits, for label smoothing
  float* at_target;  // the target's logit; 0 where it is in another stretch, as is
  float* bend;       // its derivative in the raw logit
  float* slope;      // sum over the others of exp(logit - top) W; null: not wanted
  float* even;       // sum over all of bend W; null: not wanted
};

// What the finished statistics say of one token.
struct Row {
  float logprob, lse, miss;
};

inline Row finish(const Part& part, std::int64_t t, const Size& size, const Options& options) {
  const float others = part.top[t] + std::log(part.sum[t]);
  // log(1 + e^gap) and 1 / (1 + e^-gap) from the side where nothing overflows: their digits near
  // 0 are those of 1 - p near p = 1, which no difference of logits to the lse would keep.
  const float gap = others - part.at_target[t];
  const float small = std::exp(-std::abs(gap));
  const float above = std::log1p(small);
  const float logprob = -(std::max(gap, 0.0F) + above);
  const float lse = std::max(others, part.at_target[t]) + above;
  const float miss = (gap > 0.0F ? 1.0F : small) / (1.0F + small);
  if (options.smoothing == 0.0F) return {logprob, lse, miss};
  const float even = part.total[t] / static_cast<float>(size.V) - lse;
  return {(1.0F - options.smoothing) * logprob + options.smoothing * even, lse, miss};
}

// Calls f(index of its logit, token) for each of `count` tokens whose target is among rows
// [first, first + rows).
template <typename F>
inline void each_target(const std::int64_t* targets, std::int64_t count, std::int64_t first,
                        std::int64_t rows, std::int64_t stride, F&& f) {
  for (std::int64_t t = 0; t < count; ++t) {
    const std::int64_t row = targets[t] - first;
    if (row >= 0 && row < rows) f(row * stride + t, t);
  }
}

// Adds a panel of logits to the statistics of its tokens. With kKeep it becomes exp(logit - top)
// with the new top, and `rescale` is what that makes of sums kept until now; without, neither is
// touched. Panels and statistics at their first token.
template <bool kKeep>
inline void add_exponentials(std::int64_t rows, float* logits, std::int64_t stride, float* tops,
                             float* sums, float* rescale) {
  for (int half = 0; half < kColumns; half += kWidth) {
    const Vec before = load(tops + half);
    Vec top = before;
    for (std::int64_t v = 0; v < rows; ++v) {
      const Vec z = load(logits + v * stride + half);
      top = choose(z > top, z, top);
    }
    top = choose(top > before + all(kHeadroom), top, before);
    const Vec base = choose(top > all(-kInfinity), top, Vec{});
    Vec sum[4] = {};
    std::int64_t v = 0;
    const auto one = [&](Vec& into) {
      float* at = logits + v++ * stride + half;
      const Vec e = exponential(load(at) - base);
      if constexpr (kKeep) store(at, e);
      into += e;
    };
    while (v + 4 <= rows) {
      for (Vec& part : sum) one(part);
    }
    while (v < rows) one(sum[0]);
    const Vec change = exponential(before - base);
    const Vec added = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    store(sums + half, load(sums + half) * change + added);
    store(tops + half, top);
    if constexpr (kKeep) store(rescale + half, change);
  }
}

inline void add_totals(std::int64_t rows, const float* logits, std::int64_t stride, float* totals) {
  for (int half = 0; half < kColumns; half += kWidth) {
    Vec total = {};
    for (std::int64_t v = 0; v < rows; ++v) total += load(logits + v * stride + half);
    store(totals + half, load(totals + half) + total);
  }
}

// One panel of sums, [H][stride], times the factors of its tokens, which mostly are 1.
inline void rescale_panel(std::int64_t H, const float* factors, float* sums, std::int64_t stride) {
  if (std::all_of(factors, factors + kColumns, [](float factor) { return factor == 1.0F; })) return;
  for (std::int64_t h = 0; h < H; ++h) {
    for (std::int64_t i = 0; i < kColumns; i += kWidth) {
      float* at = sums + h * stride + i;
      store(at, load(at) * load(factors + i));
    }
  }
}

// `into` learns what a later stretch of the vocabulary says.
inline void merge(std::int64_t H, const Part& into, const Part& later) {
  float mine[kTokens], theirs[kTokens];
  for (std::int64_t t = 0; t < into.tokens; ++t) {
    const float top = std::max(into.top[t], later.top[t]);
    const float base = top > -kInfinity ? top : 0.0F;
    mine[t] = std::exp(into.top[t] - base);
    theirs[t] = std::exp(later.top[t] - base);
    into.top[t] = top;
    into.sum[t] = mine[t] * into.sum[t] + theirs[t] * later.sum[t];
    into.total[t] += later.total[t];
    into.at_target[t] += later.at_target[t];
    into.bend[t] += later.bend[t];
  }
  for (std::int64_t h = 0; into.slope != nullptr && h < H; ++h) {
    float* to = into.slope + h * into.tokens;
    const float* from = later.slope + h * into.tokens;
    for (std::int64_t t = 0; t < into.tokens; ++t) to[t] = mine[t] * to[t] + theirs[t] * from[t];
  }
  for (std::int64_t i = 0; into.even != nullptr && i < H * into.tokens; ++i) {
    into.even[i] += later.even[i];
  }
}

}  // namespace
}  // namespace crucible::linear_logprobs::cpu
