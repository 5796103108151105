// Log-probabilities of targets under a linear head, and their derivatives, on the CPU.
#pragma once

#include <cstdint>

namespace crucible::linear_logprobs {

struct Size {
  std::int64_t T;  // tokens
  std::int64_t H;  // hidden
  std::int64_t V;  // vocabulary
};

// Rows of one dtype, elements of a row side by side, strides in elements; targets in [0, V).
struct Inputs {
  const void* hidden_TH;
  const void* weight_VH;
  const std::int64_t* targets_T;
  std::int64_t hidden_stride;
  std::int64_t weight_stride;
  bool bfloat16;  // else float32
};

struct Options {
  float softcap;    // 0: none
  float smoothing;  // share of the target's mass spread evenly over the vocabulary
  // Entries of the softmax below eps count eps with the probability that makes their mean right,
  // else nothing; 0: exact. Without softcap and smoothing only.
  float eps;
  std::uint64_t seed;
};

struct Gradients {
  const float* grad_T;  // of the loss in each log-probability
  const float* lse_T;   // both from the forward
  const float* miss_T;
};

struct Outputs {
  float* logprobs_T;
  float* lse_T;
  float* miss_T;
  float* slope_TH;  // null: not wanted
  float* sure_T;    // of a sampled slope, the probability of entries that are not drawn; or null
};

struct SumOutputs {
  float* logprobs_T;
  float* dx_TH;
  float* dw_VH;
};

namespace cpu {

// The same bits for any number of threads, and for a token whatever the tokens beside it.
// `even_row_H` is smoothing / V times the sum of the head's rows; null without smoothing, or with a
// softcap, which bends every token's rows differently.
void forward(const Inputs& in, const Size& size, const Options& options, const float* even_row_H,
             const Outputs& out, int threads);

// dw_VH: dense, in the inputs' dtype. The same bits for any number of threads.
void grad_weight(const Inputs& in, const Size& size, const Options& options,
                 const Gradients& gradients, void* dw_VH, int threads);

// Log-probabilities, and the gradients of the sum of factors_T times them; float32 and no softcap.
// The same bits for any number of threads.
void sum_gradients(const Inputs& in, const Size& size, const Options& options,
                   const float* factors_T, const SumOutputs& out, int threads);

}  // namespace cpu
}  // namespace crucible::linear_logprobs
