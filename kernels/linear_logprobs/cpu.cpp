// The CPU variant, compiled once for each level of instructions.
#include "../common/entry.h"
#include "cpu_forward.h"
#include "cpu_grad_weight.h"

namespace crucible::linear_logprobs::cpu {

void forward(const Inputs& in, const Size& size, const Options& options, const float* even_row_H,
             const Outputs& out, int threads) {
  if (in.bfloat16) {
    Forward<BFloat16>(in, size, options, even_row_H, out, threads).run();
  } else {
    Forward<float>(in, size, options, even_row_H, out, threads).run();
  }
}

void grad_weight(const Inputs& in, const Size& size, const Options& options,
                 const Gradients& gradients, void* dw_VH, int threads) {
  const HeadGradient gradient = {in, size, options, gradients};
  if (in.bfloat16) {
    fill(gradient, static_cast<BFloat16*>(dw_VH), threads);
  } else {
    fill(gradient, static_cast<float*>(dw_VH), threads);
  }
}

}  // namespace crucible::linear_logprobs::cpu

CRUCIBLE_ENTRY(linear_logprobs, forward)
CRUCIBLE_ENTRY(linear_logprobs, grad_weight)
