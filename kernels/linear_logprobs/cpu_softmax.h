// What happens to the logits of one panel between the two products: statistics and coefficients.
#pragma once

#include <cmath>
#include <limits>

#include "cpu_panels.h"
#include "launch.h"

namespace crucible::linear_logprobs::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One panel's running statistics; the target's logit stays outside of `top` and `sum`.
struct Running {
  alignas(64) float top[kLanes];        // maximum of the other tokens' logits
  alignas(64) float sum[kLanes];        // sum over them of exp(logit - top)
  alignas(64) float total[kLanes];      // sum of all logits, for label smoothing
  alignas(64) float at_target[kLanes];  // the target's logit
  alignas(64) float bend[kLanes];       // its derivative in the raw logit
  std::int64_t targets[kLanes];         // -1 where the panel has no token
};

// What the finished statistics say of one token.
struct Row {
  float logprob, lse, miss;
};

inline Row finish(const Running& running, int lane, const Size& size, const Options& options) {
  const float others = running.top[lane] + std::log(running.sum[lane]);
  // log(1 + e^gap) and 1 / (1 + e^-gap) from the side where nothing overflows: their digits near
  // 0 are those of 1 - p near p = 1, which no difference of logits to the lse would keep.
  const float gap = others - running.at_target[lane];
  const float small = std::exp(-std::abs(gap));
  const float above = std::log1p(small);
  const float logprob = -(std::max(gap, 0.0F) + above);
  const float lse = std::max(others, running.at_target[lane]) + above;
  const float miss = (gap > 0.0F ? 1.0F : small) / (1.0F + small);
  if (options.smoothing == 0.0F) return {logprob, lse, miss};
  const float even = running.total[lane] / static_cast<float>(size.V) - lse;
  return {(1.0F - options.smoothing) * logprob + options.smoothing * even, lse, miss};
}

// Takes the targets among rows [first, first + rows) out of the logits, which become -infinity.
inline void take_targets(std::int64_t first, std::int64_t rows, const float* bend, float* logits,
                         Running& running) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const std::int64_t row = running.targets[lane] - first;
    if (row < 0 || row >= rows) continue;
    float& logit = logits[row * kLanes + lane];
    running.at_target[lane] = logit;
    running.bend[lane] = bend == nullptr ? 1.0F : bend[row * kLanes + lane];
    logit = -kInfinity;
  }
}

// Logits become exp(logit - top) with the new top; returns what it made of sums kept until now.
inline void exponentials(std::int64_t rows, float* logits, Running& running, float* rescale) {
  for (int half = 0; half < kLanes; half += kWidth) {
    const Vec before = load(running.top + half);
    Vec top = before;
    for (std::int64_t v = 0; v < rows; ++v) {
      const Vec z = load(logits + v * kLanes + half);
      top = choose(z > top, z, top);
    }
    const Vec base = choose(top > all(-kInfinity), top, Vec{});
    Vec sum[4] = {};
    std::int64_t v = 0;
    const auto one = [&](Vec& into) {
      float* at = logits + v++ * kLanes + half;
      const Vec e = exponential(load(at) - base);
      store(at, e);
      into += e;
    };
    while (v + 4 <= rows) {
      for (Vec& part : sum) one(part);
    }
    while (v < rows) one(sum[0]);
    const Vec change = exponential(before - base);
    const Vec added = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    store(running.sum + half, load(running.sum + half) * change + added);
    store(running.top + half, top);
    store(rescale + half, change);
  }
}

inline void add_total(std::int64_t rows, const float* logits, Running& running) {
  for (int half = 0; half < kLanes; half += kWidth) {
    Vec total = {};
    for (std::int64_t v = 0; v < rows; ++v) total += load(logits + v * kLanes + half);
    store(running.total + half, load(running.total + half) + total);
  }
}

// What `grad_weight` knows of a panel's tokens; zeros where the panel has none.
struct Given {
  alignas(64) float lse[kLanes];
  alignas(64) float at_target[kLanes];  // q - p at the target
  alignas(64) float grad[kLanes];
  std::int64_t targets[kLanes];
};

// Logits become grad (q - p), the target's from `at_target`; bend may be null.
inline void pulls(std::int64_t first, std::int64_t rows, float even_share, const float* bend,
                  const Given& given, float* logits) {
  for (int half = 0; half < kLanes; half += kWidth) {
    const Vec lse = load(given.lse + half), grad = load(given.grad + half);
    for (std::int64_t v = 0; v < rows; ++v) {
      float* at = logits + v * kLanes + half;
      store(at, (even_share - exponential(load(at) - lse)) * grad);
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    const std::int64_t row = given.targets[lane] - first;
    if (row < 0 || row >= rows) continue;
    logits[row * kLanes + lane] = given.at_target[lane] * given.grad[lane];
  }
  if (bend == nullptr) return;
  for (std::int64_t i = 0; i < rows * kLanes; ++i) logits[i] *= bend[i];
}

}  // namespace
}  // namespace crucible::linear_logprobs::cpu
