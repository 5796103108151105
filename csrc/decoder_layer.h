// A decoder layer of Llama and Mistral: the kernels of its parts, one after the other, without
// Python between them. Letters: T tokens, H the model's width, A heads of the queries, G of the
// keys and values, D elements of a head, I the MLP's width.
#pragma once

#include <cstdint>

#include "../kernels/lora_linear/launch.h"
#include "../kernels/rms_norm/launch.h"
#include "../kernels/varlen_attention/launch.h"

namespace crucible::decoder_layer {

struct Norm {
  rms_norm::Array weight;  // [H]
  float eps;
};

// Arrays of a layer that have no dtype here share x's, float32 or bfloat16.
struct Layer {
  std::int64_t H;
  bool bfloat16;
  Norm before_attention;
  Norm before_mlp;
  // With no x, y and dx: what they read and write is the layer's own. Their xa are kept.
  lora_linear::Pass qkv;
  lora_linear::Pass o;
  lora_linear::Pass gate_up;
  lora_linear::Pass down;
  const float* cos;  // [T, D / 2]
  const float* sin;
  varlen_attention::Inputs attention;  // with no q, k and v

  std::int64_t tokens() const { return attention.size.T; }
  std::int64_t inner() const { return down.K; }  // I
};

// What the forward leaves for the backward, beside x and each xa.
struct Kept {
  float* rstd_before_attention;  // [T]
  void* q;                       // turned, [T, A, D]
  void* k;                       // turned, [T, G, D]
  void* v;                       // [T, G, D]
  void* attended;                // [T, A, D]
  float* lse;                    // [T, A]
  void* middle;                  // x and what attention adds, [T, H]
  float* rstd_before_mlp;        // [T]
  void* gate;                    // [T, I]
  void* up;                      // [T, I]
};

// y [T, H]. The same bits for any number of threads, and those of the kernels called one by one.
void forward(Layer& layer, const void* x, const Kept& kept, void* y, int threads);

// dx [T, H], where it is not null, and da and db of the updates; nothing kept is changed.
void backward(Layer& layer, const void* dy, const void* x, const Kept& kept, void* dx, int threads);

}  // namespace crucible::decoder_layer
