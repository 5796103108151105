// AdamW on the CPU. Work is cut into chunks of a fixed size, so that an element is computed by the
// same instructions whatever the number of threads.
#include <algorithm>

#include "../common/entry.h"
#include "../common/threads.h"
#include "launch.h"

namespace crucible::adamw_step::cpu {
namespace {

constexpr std::int64_t kChunk = 16384;

struct Chunk {
  const Tensors* tensors;
  std::int64_t first;
};

template <typename P, typename G, bool kStochastic>
void update_chunk(const Tensors& t, const Constants& constants, std::int64_t first) {
  auto* __restrict__ p = static_cast<P*>(t.param) + first;
  const auto* __restrict__ g = static_cast<const G*>(t.grad) + first;
  float* __restrict__ m = t.exp_avg + first;
  float* __restrict__ v = t.exp_avg_sq + first;
  const auto count = static_cast<std::int32_t>(std::min(kChunk, t.numel - first));
  const auto element = static_cast<std::uint32_t>(first);
  // Copies: through the references, the stores could change them.
  const Constants c = constants;
  const Corrections at = t.corrections;
  for (std::int32_t i = 0; i < count; ++i) {
    const float next = update(c, at, widen(p[i]), widen(g[i]), m[i], v[i]);
    narrow<kStochastic>(next, at.key, element + static_cast<std::uint32_t>(i), p[i]);
  }
}

template <typename P, typename G>
void update_chunk(const Step& step, const Chunk& chunk) {
  if (step.stochastic_rounding) {
    update_chunk<P, G, true>(*chunk.tensors, step.constants, chunk.first);
  } else {
    update_chunk<P, G, false>(*chunk.tensors, step.constants, chunk.first);
  }
}

void update_chunk(const Step& step, const Chunk& chunk) {
  const Tensors& t = *chunk.tensors;
  if (t.param_is_bfloat16) {
    t.grad_is_bfloat16 ? update_chunk<BFloat16, BFloat16>(step, chunk)
                       : update_chunk<BFloat16, float>(step, chunk);
  } else {
    t.grad_is_bfloat16 ? update_chunk<float, BFloat16>(step, chunk)
                       : update_chunk<float, float>(step, chunk);
  }
}

}  // namespace

void launch(const Step& step, int threads) {
  std::vector<Chunk> chunks;
  for (const Tensors& tensors : step.tensors) {
    for (std::int64_t first = 0; first < tensors.numel; first += kChunk) {
      chunks.push_back({&tensors, first});
    }
  }
  parallel_for(static_cast<std::int64_t>(chunks.size()), threads,
               [&](std::int64_t i) { update_chunk(step, chunks[static_cast<std::size_t>(i)]); });
}

}  // namespace crucible::adamw_step::cpu

CRUCIBLE_ENTRY(adamw_step, launch)
