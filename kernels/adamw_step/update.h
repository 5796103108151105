// The arithmetic of one element of AdamW, shared by the CPU and the CUDA kernel, so that testing
// one of them tests it. Letters as in README.md.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "../common/bfloat16.h"
#include "../common/hash.h"

namespace crucible::adamw_step {

// What is the same for all tensors of a step.
struct Constants {
  float beta1;
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float decay;  // 1 - lr weight_decay
  float eps;
};

// What depends on the tensor: its number of steps and its place in the list.
struct Corrections {
  float step_size;           // lr / (1 - beta1^t)
  float root_correction;     // 1 / sqrt(1 - beta2^t)
  std::uint32_t param_key;   // of the noise that rounds p
  std::uint32_t square_key;  // and v
};

// What gradients are multiplied by, and whether they are taken at all: known on the device alone.
struct Guard {
  const double* norm;  // of the gradients, where they are; null: they are not looked at
  double max_norm;     // 0: no clipping
  double grad_scale;
};

// False where the step must change nothing, else with the factor of every gradient.
CRUCIBLE_HOST_DEVICE bool takes_step(const Guard& guard, float& factor) {
  double scale = guard.grad_scale;
  if (guard.norm != nullptr) {
    const double norm = *guard.norm;
    if (!(norm <= DBL_MAX)) return false;  // NaN too
    const double clip = guard.max_norm / (norm * scale + 1e-6);
    if (guard.max_norm > 0.0 && clip < 1.0) scale *= clip;
  }
  factor = static_cast<float>(scale);
  return true;
}

struct Root {
  CRUCIBLE_HOST_DEVICE float operator()(float x) const { return sqrtf(x); }
};

// p after the step; m and v in place. Numbers are float, or vectors of it with their own root.
template <typename Number, typename RootOf = Root>
CRUCIBLE_HOST_DEVICE Number update(const Constants& c, const Corrections& at, Number p, Number g,
                                   Number& m, Number& v, RootOf root = {}) {
  m = c.beta1 * m + c.one_minus_beta1 * g;
  v = c.beta2 * v + c.one_minus_beta2 * (g * g);
  return c.decay * p - at.step_size * m / (root(v) * at.root_correction + c.eps);
}

// 16 random bits. Two neighbours share a hash: the even one has its lower half.
CRUCIBLE_HOST_DEVICE std::uint32_t noise(std::uint32_t key, std::uint32_t element) {
  const std::uint32_t shared = mix((element >> 1) ^ key);
  return (element & 1U) != 0 ? shared >> 16 : shared & 0xffffU;
}

template <bool kStochastic>
CRUCIBLE_HOST_DEVICE void narrow(float x, std::uint32_t, std::uint32_t, float& into) {
  into = x;
}

// To nearest, or up with the probability of the fraction that is cut off.
template <bool kStochastic>
CRUCIBLE_HOST_DEVICE void narrow(float x, std::uint32_t key, std::uint32_t element,
                                 BFloat16& into) {
  into = kStochastic ? cut(bits_of(x), noise(key, element)) : round_to_nearest(x);
}

}  // namespace crucible::adamw_step
