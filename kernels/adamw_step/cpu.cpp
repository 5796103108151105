// AdamW on the CPU. Work is cut into chunks of a fixed size, so that an element is computed by the
// same instructions whatever the number of threads.
#include <algorithm>

#include "../common/entry.h"
#include "../common/threads.h"
#include "cpu_run.h"
#include "launch.h"

namespace crucible::adamw_step::cpu {
namespace {

constexpr std::int64_t kChunk = 16384;  // of whole blocks
static_assert(kChunk % kBlock == 0 && kBlock % vectors::kPair == 0);

struct Chunk {
  const Tensors* tensors;
  std::int64_t first;
};

// A block of codes as float32.
template <bool kSigned>
void decode_block(const std::uint8_t* __restrict__ codes, float scale, std::int32_t count,
                  float* __restrict__ wide) {
  for (std::int32_t i = 0; i < count; ++i) wide[i] = decode<kSigned>(codes[i]) * scale;
}

// Float32 as a block of codes; returns its scale.
template <bool kSigned>
float encode_block(const float* __restrict__ wide, std::int32_t count,
                   std::uint8_t* __restrict__ codes) {
  // Magnitudes are ordered as their bits are, whose maximum is vectorized.
  std::uint32_t bits = 0;
  for (std::int32_t i = 0; i < count; ++i) bits = std::max(bits, bits_of(wide[i]) & 0x7fffffffU);
  const float largest = float_of(bits);
  const float by = divisor(largest);
  for (std::int32_t i = 0; i < count; ++i) codes[i] = encode<kSigned>(wide[i] / by);
  return largest;
}

template <typename P, typename G, bool kStochastic>
void update_eight_bit(const Tensors& t, const Run<P, G, float, kStochastic>& run,
                      std::int64_t first, std::int64_t end) {
  float m[kBlock], v[kBlock];
  for (std::int64_t at = first; at < end; at += kBlock) {
    const auto count = static_cast<std::int32_t>(std::min(kBlock, end - at));
    auto* m_codes = static_cast<std::uint8_t*>(t.exp_avg) + at;
    auto* v_codes = static_cast<std::uint8_t*>(t.exp_avg_sq) + at;
    float& m_scale = t.exp_avg_scales[at / kBlock];
    float& v_scale = t.exp_avg_sq_scales[at / kBlock];
    decode_block<true>(m_codes, m_scale, count, m);
    decode_block<false>(v_codes, v_scale, count, v);
    run.update(at, at + count, m, v);
    m_scale = encode_block<true>(m, count, m_codes);
    v_scale = encode_block<false>(v, count, v_codes);
  }
}

template <typename P, typename G, bool kStochastic>
void update_chunk(const Step& step, float grad_factor, const Chunk& chunk) {
  const Tensors& t = *chunk.tensors;
  const std::int64_t first = chunk.first, end = std::min(t.numel, first + kChunk);
  if (step.moments == Moments::kBFloat16) {
    const Run<P, G, BFloat16, kStochastic> run(step.constants, t, grad_factor);
    run.update(first, end, static_cast<BFloat16*>(t.exp_avg) + first,
               static_cast<BFloat16*>(t.exp_avg_sq) + first);
    return;
  }
  const Run<P, G, float, kStochastic> run(step.constants, t, grad_factor);
  if (step.moments == Moments::kEightBit) {
    update_eight_bit(t, run, first, end);
  } else {
    run.update(first, end, static_cast<float*>(t.exp_avg) + first,
               static_cast<float*>(t.exp_avg_sq) + first);
  }
}

template <typename P, typename G>
void update_chunk(const Step& step, float grad_factor, const Chunk& chunk) {
  step.stochastic_rounding ? update_chunk<P, G, true>(step, grad_factor, chunk)
                           : update_chunk<P, G, false>(step, grad_factor, chunk);
}

void update_chunk(const Step& step, float grad_factor, const Chunk& chunk) {
  const Tensors& t = *chunk.tensors;
  if (t.param_is_bfloat16) {
    t.grad_is_bfloat16 ? update_chunk<BFloat16, BFloat16>(step, grad_factor, chunk)
                       : update_chunk<BFloat16, float>(step, grad_factor, chunk);
  } else {
    t.grad_is_bfloat16 ? update_chunk<float, BFloat16>(step, grad_factor, chunk)
                       : update_chunk<float, float>(step, grad_factor, chunk);
  }
}

}  // namespace

void launch(const Step& step, int threads) {
  float grad_factor = 0.0F;
  if (!takes_step(step.guard, grad_factor)) return;
  std::vector<Chunk> chunks;
  for (const Tensors& tensors : step.tensors) {
    for (std::int64_t first = 0; first < tensors.numel; first += kChunk) {
      chunks.push_back({&tensors, first});
    }
  }
  parallel_for(static_cast<std::int64_t>(chunks.size()), threads, [&](std::int64_t i) {
    update_chunk(step, grad_factor, chunks[static_cast<std::size_t>(i)]);
  });
}

}  // namespace crucible::adamw_step::cpu

CRUCIBLE_ENTRY(adamw_step, launch)
