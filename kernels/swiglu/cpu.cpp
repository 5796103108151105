// swiglu on the CPU: one pass each way, a vector at a time.
#include <algorithm>

#include "../common/bfloat16.h"
#include "../common/entry.h"
#include "../common/threads.h"
#include "../common/vectors.h"
#include "launch.h"

namespace crucible::swiglu::cpu {
namespace {

using vectors::Floats;

// Elements that a thread takes at a time.
constexpr std::int64_t kChunk = 16384;

template <typename F>
void each_chunk(std::int64_t numel, int threads, F&& f) {
  parallel_for((numel + kChunk - 1) / kChunk, threads, [&](std::int64_t chunk) {
    const std::int64_t first = chunk * kChunk;
    f(first, std::min(kChunk, numel - first));
  });
}

template <typename T>
void forward_of(const Forward& f, int threads) {
  each_chunk(f.numel, threads, [&](std::int64_t first, std::int64_t count) {
    const T* gate = static_cast<const T*>(f.gate) + first;
    const T* up = static_cast<const T*>(f.up) + first;
    T* y = static_cast<T*>(f.y) + first;
    vectors::each(count, [&](std::int64_t i, auto lanes) {
      const Floats g = lanes.get(gate + i);
      lanes.put(y + i, g * vectors::sigmoid(g) * lanes.get(up + i));
    });
  });
}

template <typename T>
void backward_of(const Backward& b, int threads) {
  each_chunk(b.numel, threads, [&](std::int64_t first, std::int64_t count) {
    const T* dy = static_cast<const T*>(b.dy) + first;
    const T* gate = static_cast<const T*>(b.gate) + first;
    const T* up = static_cast<const T*>(b.up) + first;
    T* dgate = static_cast<T*>(b.dgate) + first;
    T* dup = static_cast<T*>(b.dup) + first;
    vectors::each(count, [&](std::int64_t i, auto lanes) {
      const Floats d = lanes.get(dy + i), g = lanes.get(gate + i), u = lanes.get(up + i);
      const Floats s = vectors::sigmoid(g);
      lanes.put(dup + i, d * (g * s));
      lanes.put(dgate + i, d * u * (s * (1.0F + g * (1.0F - s))));
    });
  });
}

}  // namespace

void forward(const Forward& f, int threads) {
  f.bfloat16 ? forward_of<BFloat16>(f, threads) : forward_of<float>(f, threads);
}

void backward(const Backward& b, int threads) {
  b.bfloat16 ? backward_of<BFloat16>(b, threads) : backward_of<float>(b, threads);
}

}  // namespace crucible::swiglu::cpu

CRUCIBLE_ENTRY(swiglu, forward)
CRUCIBLE_ENTRY(swiglu, backward)
