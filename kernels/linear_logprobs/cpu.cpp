// The CPU variant, compiled once for each level of instructions.
#include "../common/entry.h"
#include "cpu_forward.h"
#include "cpu_grad_weight.h"
#include "cpu_sum_gradients.h"

namespace crucible::linear_logprobs::cpu {

void forward(const Inputs& in, const Size& size, const Options& options, const float* even_row_H,
             const Outputs& out, int threads) {
  const ForwardCall call{
      in, size, options, even_row_H, out, TokenBlocks(size.T), Vocabulary(size.V)};
  threads = useful_threads(threads, size, call.gathers() ? 2 : 1);
  in.bfloat16 ? run_forward<BFloat16>(call, threads) : run_forward<float>(call, threads);
}

void grad_weight(const Inputs& in, const Size& size, const Options& options,
                 const Gradients& gradients, void* dw_VH, int threads) {
  threads = useful_threads(threads, size, 2);
  if (in.bfloat16) {
    HeadGradient(in, size, options, static_cast<BFloat16*>(dw_VH)).run(gradients, threads);
  } else {
    HeadGradient(in, size, options, static_cast<float*>(dw_VH)).run(gradients, threads);
  }
}

void sum_gradients(const Inputs& in, const Size& size, const Options& options,
                   const float* factors_T, const SumOutputs& out, int threads) {
  SumGradients(in, size, options, factors_T, out, useful_threads(threads, size, 3)).run();
}

}  // namespace crucible::linear_logprobs::cpu

CRUCIBLE_ENTRY(linear_logprobs, forward)
CRUCIBLE_ENTRY(linear_logprobs, grad_weight)
CRUCIBLE_ENTRY(linear_logprobs, sum_gradients)
