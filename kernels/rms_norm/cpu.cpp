// rms_norm on the CPU: a row at a time; its second reading is from the first-level cache.
#include <algorithm>
#include <cmath>

#include "../common/bfloat16.h"
#include "../common/entry.h"
#include "../common/threads.h"
#include "../common/vectors.h"
#include "launch.h"

namespace crucible::rms_norm::cpu {
namespace {

using vectors::Floats;

constexpr std::int64_t kRows = 16;     // that a thread takes at a time
constexpr std::int64_t kBlock = 64;    // rows whose share of dw is summed first
constexpr std::int64_t kColumns = 64;  // of dw that a thread takes at a time
constexpr int kSums = 4;               // independent ones: enough to hide an addition's latency

// The sum over a row of what `term(i, lanes)` gives.
template <typename F>
float sum_over(std::int64_t count, F&& term) {
  constexpr std::int64_t kStep = kSums * vectors::kWidth;
  Floats sums[kSums] = {};
  std::int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    for (int s = 0; s < kSums; ++s) sums[s] += term(i + s * vectors::kWidth, vectors::Whole{});
  }
  vectors::each(count - i, [&](std::int64_t j, auto lanes) { sums[0] += term(i + j, lanes); });
  return vectors::sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <typename F>
void each_row(std::int64_t rows, int threads, F&& f) {
  parallel_for((rows + kRows - 1) / kRows, threads, [&](std::int64_t group) {
    const std::int64_t last = std::min(rows, (group + 1) * kRows);
    for (std::int64_t m = group * kRows; m < last; ++m) f(m);
  });
}

template <typename T, typename W>
void forward_of(const Forward& f, int threads) {
  const auto N = f.size.N;
  const W* w = static_cast<const W*>(f.weight.data);
  each_row(f.size.M, threads, [&](std::int64_t m) {
    const T* x = static_cast<const T*>(f.x.data) + m * N;
    T* y = static_cast<T*>(f.y.data) + m * N;
    const float squares = sum_over(N, [&](std::int64_t i, auto lanes) {
      const Floats v = lanes.get(x + i);
      return v * v;
    });
    const float rstd = 1.0F / std::sqrt(squares / static_cast<float>(N) + f.eps);
    if (f.rstd != nullptr) f.rstd[m] = rstd;
    vectors::each(N, [&](std::int64_t i, auto lanes) {
      lanes.put(y + i, lanes.get(x + i) * rstd * lanes.get(w + i));
    });
  });
}

template <typename T, typename W>
void grad_x(const Backward& b, int threads) {
  const auto N = b.size.N;
  const W* w = static_cast<const W*>(b.weight.data);
  each_row(b.size.M, threads, [&](std::int64_t m) {
    const T* dy = static_cast<const T*>(b.dy.data) + m * N;
    const T* x = static_cast<const T*>(b.x.data) + m * N;
    T* dx = static_cast<T*>(b.dx.data) + m * N;
    const float r = b.rstd[m];
    // With x r in place of x: a square of r could leave float32's range where x r cannot.
    const float along = sum_over(N, [&](std::int64_t i, auto lanes) {
      return lanes.get(w + i) * lanes.get(dy + i) * (lanes.get(x + i) * r);
    });
    const float mean = along / static_cast<float>(N);
    vectors::each(N, [&](std::int64_t i, auto lanes) {
      const Floats pull = lanes.get(w + i) * lanes.get(dy + i);
      lanes.put(dx + i, r * (pull - (lanes.get(x + i) * r) * mean));
    });
  });
}

template <typename T, typename W>
void grad_weight(const Backward& b, int threads) {
  const auto [M, N] = b.size;
  const T* dy = static_cast<const T*>(b.dy.data);
  const T* x = static_cast<const T*>(b.x.data);
  W* dw = static_cast<W*>(b.dweight.data);
  parallel_for((N + kColumns - 1) / kColumns, threads, [&, M = M, N = N](std::int64_t group) {
    const std::int64_t first = group * kColumns, count = std::min(kColumns, N - first);
    float totals[kColumns] = {}, sums[kColumns];
    for (std::int64_t block = 0; block < M; block += kBlock) {
      std::fill(sums, sums + kColumns, 0.0F);
      for (std::int64_t m = block; m < std::min(M, block + kBlock); ++m) {
        const std::int64_t at = m * N + first;
        const float r = b.rstd[m];
        vectors::each(count, [&](std::int64_t i, auto lanes) {
          const Floats product = lanes.get(dy + at + i) * (lanes.get(x + at + i) * r);
          lanes.put(sums + i, lanes.get(sums + i) + product);
        });
      }
      for (std::int64_t i = 0; i < count; ++i) totals[i] += sums[i];
    }
    vectors::each(count, [&](std::int64_t i, auto lanes) {
      lanes.put(dw + first + i, lanes.get(totals + i));
    });
  });
}

// Calls f(T{}, W{}) with the types of x's elements and of weight's.
template <typename F>
void typed(const Array& x, const Array& weight, F&& f) {
  if (x.bfloat16) {
    weight.bfloat16 ? f(BFloat16{}, BFloat16{}) : f(BFloat16{}, float{});
  } else {
    weight.bfloat16 ? f(float{}, BFloat16{}) : f(float{}, float{});
  }
}

}  // namespace

void forward(const Forward& f, int threads) {
  typed(f.x, f.weight, [&](auto x, auto w) { forward_of<decltype(x), decltype(w)>(f, threads); });
}

void backward(const Backward& b, int threads) {
  typed(b.x, b.weight, [&](auto x, auto w) {
    if (b.dx.data != nullptr) grad_x<decltype(x), decltype(w)>(b, threads);
    if (b.dweight.data != nullptr) grad_weight<decltype(x), decltype(w)>(b, threads);
  });
}

}  // namespace crucible::rms_norm::cpu

CRUCIBLE_ENTRY(rms_norm, forward)
CRUCIBLE_ENTRY(rms_norm, backward)
