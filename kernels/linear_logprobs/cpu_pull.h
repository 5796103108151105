// What logits become once the lse of their tokens is known: the coefficients of both gradients.
#pragma once

#include "cpu_softmax.h"

namespace crucible::linear_logprobs::cpu {
namespace {

// Of each token, [tokens]; 0 where a panel has none.
struct Given {
  float* lse;
  float* at_target;  // q - p at the target
  float* grad;
};

class Pull {
 public:
  Pull(const Inputs& in, const Size& size, const Options& options)
      : in_(in), options_(options), even_share_(options.smoothing / static_cast<float>(size.V)) {}

  void give(std::int64_t t, float lse, float miss, float grad, const Given& given) const {
    given.lse[t] = lse;
    given.at_target[t] = miss - options_.smoothing + even_share_;
    given.grad[t] = grad;
  }

  // Logits of rows [first, first + rows) and tokens [token, token + tokens), of which `given` has
  // the first one's at its start, become grad (q - p) bend. `bend` is room for as many; null
  // without a softcap.
  void turn(std::int64_t first, std::int64_t rows, std::int64_t token, std::int64_t tokens,
            const Given& given, float* logits, std::int64_t stride, float* bend = nullptr) const {
    const bool bends = options_.softcap != 0.0F;
    gemm::each_panel(tokens, [&](std::int64_t t, int count) {
      const float* at_target = given.at_target + t;
      const float* grad = given.grad + t;
      if (bends) cap(rows, options_.softcap, logits + t, bend + t, stride);
      pulls(rows, given.lse + t, grad, logits + t, stride);
      each_target(
          in_.targets_T + token + t, count, first, rows, stride,
          [&](std::int64_t at, std::int64_t i) { logits[t + at] = at_target[i] * grad[i]; });
      if (bends) scale_by(bend + t, rows, logits + t, stride);
    });
  }

 private:
  // One panel of logits becomes grad (q - p), but for targets.
  void pulls(std::int64_t rows, const float* lses, const float* grads, float* logits,
             std::int64_t stride) const {
    for (int half = 0; half < kColumns; half += kWidth) {
      const Vec lse = load(lses + half), grad = load(grads + half);
      for (std::int64_t v = 0; v < rows; ++v) {
        float* at = logits + v * stride + half;
        store(at, (even_share_ - exponential(load(at) - lse)) * grad);
      }
    }
  }

  const Inputs& in_;
  const Options& options_;
  float even_share_;
};

}  // namespace
}  // namespace crucible::linear_logprobs::cpu
