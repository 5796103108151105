// The norm on the CPU: each chunk is summed in lanes, lanes and chunks are added in a fixed order.
#include <algorithm>
#include <cmath>

#include "../common/bfloat16.h"
#include "../common/entry.h"
#include "../common/threads.h"
#include "launch.h"

namespace crucible::grad_norm::cpu {
namespace {

constexpr int kLanes = 16;  // independent sums: enough to hide the latency of an addition

struct Chunk {
  const Gradient* gradient;
  std::int64_t first;
};

double square(float x) { return static_cast<double>(x) * static_cast<double>(x); }

template <typename G>
double sum_of_squares(const G* g, std::int64_t count) {
  double lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += square(widen(g[i + lane]));
  }
  for (int lane = 0; i < count; ++i, ++lane) lanes[lane] += square(widen(g[i]));
  double sum = 0.0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

double sum_of_squares(const Chunk& chunk) {
  const Gradient& gradient = *chunk.gradient;
  const std::int64_t count = std::min(kChunk, gradient.numel - chunk.first);
  if (gradient.is_bfloat16) {
    return sum_of_squares(static_cast<const BFloat16*>(gradient.data) + chunk.first, count);
  }
  return sum_of_squares(static_cast<const float*>(gradient.data) + chunk.first, count);
}

}  // namespace

double launch(const std::vector<Gradient>& gradients, int threads) {
  std::vector<Chunk> chunks;
  for (const Gradient& gradient : gradients) {
    for (std::int64_t first = 0; first < gradient.numel; first += kChunk) {
      chunks.push_back({&gradient, first});
    }
  }
  std::vector<double> sums(chunks.size());
  parallel_for(static_cast<std::int64_t>(chunks.size()), threads, [&](std::int64_t i) {
    const auto chunk = static_cast<std::size_t>(i);
    sums[chunk] = sum_of_squares(chunks[chunk]);
  });
  double sum = 0.0;
  for (const double part : sums) sum += part;
  return std::sqrt(sum);
}

}  // namespace crucible::grad_norm::cpu

CRUCIBLE_ENTRY(grad_norm, launch)
