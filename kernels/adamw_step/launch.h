// AdamW over many tensors, in place, in one call.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "eight_bit.h"
#include "update.h"

namespace crucible::adamw_step {

// Dense tensors of one shape and one order in memory; blocks are counted in that order.
struct Tensors {
  void* param;
  const void* grad;
  void* exp_avg;             // as Moments says
  void* exp_avg_sq;          // likewise
  float* exp_avg_scales;     // the largest magnitude of each block of codes
  float* exp_avg_sq_scales;  // likewise
  std::int64_t numel;
  Corrections corrections;
  bool param_is_bfloat16;  // else float32
  bool grad_is_bfloat16;
};

// What the running means of all tensors of a step are kept in.
enum class Moments { kFloat32, kBFloat16, kEightBit };

struct Step {
  std::vector<Tensors> tensors;
  Constants constants;
  Guard guard;
  Moments moments;
  bool stochastic_rounding;  // of parameters in bfloat16
};

struct Options {
  double lr;
  double beta1;
  double beta2;
  double eps;
  double weight_decay;
  double grad_scale;
  double max_norm;
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
          narrow(o.eps)};
}

inline Corrections corrections_of(const Options& o, std::int64_t step, std::uint32_t tensor) {
  const auto t = static_cast<double>(step);
  return {static_cast<float>(o.lr / (1.0 - std::pow(o.beta1, t))),
          static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(o.beta2, t))), hash_key(o.seed, tensor),
          hash_key(o.seed, ~tensor)};
}

inline std::int64_t blocks_of(std::int64_t numel) { return (numel + kBlock - 1) / kBlock; }

namespace cpu {
// The same bits for any number of threads.
void launch(const Step& step, int threads);
}  // namespace cpu

namespace cuda {
// On `stream` (a cudaStream_t) of the current device; does not wait.
void launch(const Step& step, void* stream);
}  // namespace cuda

}  // namespace crucible::adamw_step
