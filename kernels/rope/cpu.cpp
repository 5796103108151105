// rope on the CPU: one pass, a vector of pairs at a time.
#include <algorithm>

#include "../common/bfloat16.h"
#include "../common/entry.h"
#include "../common/threads.h"
#include "../common/vectors.h"
#include "launch.h"

namespace crucible::rope::cpu {
namespace {

using vectors::Floats;

// Elements that a thread takes at a time, in whole tokens.
constexpr std::int64_t kChunk = 16384;

template <typename T>
void rotate_token(const Rotation& r, std::int64_t t) {
  const std::int64_t half = r.size.D / 2;
  const float* cos = r.cos + t * half;
  const float* sin = r.sin + t * half;
  const float sign = r.back ? -1.0F : 1.0F;
  for (std::int64_t head = t * r.size.A; head < (t + 1) * r.size.A; ++head) {
    const T* x = static_cast<const T*>(r.x) + head * r.size.D;
    T* y = static_cast<T*>(r.y) + head * r.size.D;
    vectors::each(half, [&](std::int64_t i, auto lanes) {
      const Floats first = lanes.get(x + i), second = lanes.get(x + half + i);
      const Floats c = lanes.get(cos + i), s = sign * lanes.get(sin + i);
      lanes.put(y + i, first * c - second * s);
      lanes.put(y + half + i, second * c + first * s);
    });
  }
}

template <typename T>
void rotate_of(const Rotation& r, int threads) {
  const std::int64_t tokens = std::max<std::int64_t>(1, kChunk / (r.size.A * r.size.D));
  parallel_for((r.size.T + tokens - 1) / tokens, threads, [&](std::int64_t chunk) {
    const std::int64_t end = std::min(r.size.T, (chunk + 1) * tokens);
    for (std::int64_t t = chunk * tokens; t < end; ++t) rotate_token<T>(r, t);
  });
}

}  // namespace

void rotate(const Rotation& r, int threads) {
  if (r.size.A * r.size.D == 0) return;
  r.bfloat16 ? rotate_of<BFloat16>(r, threads) : rotate_of<float>(r, threads);
}

}  // namespace crucible::rope::cpu

CRUCIBLE_ENTRY(rope, rotate)
