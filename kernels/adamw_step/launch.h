// AdamW over many tensors, in place, in one call.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "update.h"

namespace crucible::adamw_step {

// Four dense tensors of one shape and one order in memory.
struct Tensors {
  void* param;
  const void* grad;
  float* exp_avg;
  float* exp_avg_sq;
  std::int64_t numel;
  Corrections corrections;
  bool param_is_bfloat16;  // else float32
  bool grad_is_bfloat16;
};

struct Step {
  std::vector<Tensors> tensors;
  Constants constants;
  bool stochastic_rounding;
};

struct Options {
  double lr;
  double beta1;
  double beta2;
  double eps;
  double weight_decay;
  double grad_scale;
  std::uint64_t seed;
};

// Differences of numbers near one are taken in double: 1 - beta2 would lose three digits in float.
inline Constants constants_of(const Options& o) {
  const auto narrow = [](double x) { return static_cast<float>(x); };
  return {narrow(o.beta1),
          narrow(1.0 - o.beta1),
          narrow(o.beta2),
          narrow(1.0 - o.beta2),
          narrow(1.0 - o.lr * o.weight_decay),
          narrow(o.eps),
          narrow(o.grad_scale)};
}

inline Corrections corrections_of(const Options& o, std::int64_t step, std::uint32_t tensor) {
  const auto t = static_cast<double>(step);
  return {static_cast<float>(o.lr / (1.0 - std::pow(o.beta1, t))),
          static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(o.beta2, t))),
          hash_key(o.seed, tensor)};
}

namespace cpu {
// The same bits for any number of threads.
void launch(const Step& step, int threads);
}  // namespace cpu

namespace cuda {
// On `stream` (a cudaStream_t) of the current device; does not wait.
void launch(const Step& step, void* stream);
}  // namespace cuda

}  // namespace crucible::adamw_step
