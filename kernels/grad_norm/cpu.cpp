// The norm on the CPU: each chunk is summed in lanes, lanes and chunks are added in a fixed order.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../common/entry.h"
#include "../common/threads.h"
#include "../common/vectors.h"
#include "launch.h"

namespace crucible::grad_norm::cpu {
namespace {

struct Chunk {
  const Gradient* gradient;
  std::int64_t first;
};

// As many float32 as a vector has doubles.
constexpr int kLanes = vectors::kWidth / 2;
using Doubles = double __attribute__((vector_size(8 * kLanes)));
using Floats = float __attribute__((vector_size(4 * kLanes)));
using Words = std::uint32_t __attribute__((vector_size(4 * kLanes)));

constexpr int kTurn = 4 * kLanes;      // elements of a turn: independent sums hide the latency
constexpr std::int64_t kAhead = 1024;  // elements between what is summed and what is fetched

template <typename Vector>
Vector load(const void* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

struct Sums {
  Doubles of[4] = {};

  void add(int i, Floats x) {
    Doubles wide;  // by a loop: __builtin_convertvector does it by halves
    for (int lane = 0; lane < kLanes; ++lane) wide[lane] = static_cast<double>(x[lane]);
    of[i] += wide * wide;
  }
  void add_turn(const float* g) {
    for (int i = 0; i < 4; ++i) add(i, load<Floats>(g + i * kLanes));
  }
  void add_turn(const BFloat16* g) {
    for (int i = 0; i < 4; i += 2) {
      const auto two = load<Words>(g + i * kLanes);  // the halves of a word are neighbours
      add(i, reinterpret_cast<Floats>(two << 16));
      add(i + 1, reinterpret_cast<Floats>(two & 0xffff0000U));
    }
  }
  double total() const {
    const Doubles lanes = (of[0] + of[1]) + (of[2] + of[3]);
    double sum = 0.0;
    for (int lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
    return sum;
  }
};

template <typename G>
double sum_of_squares(const G* g, std::int64_t count) {
  Sums sums;
  std::int64_t i = 0;
  for (; i + kTurn <= count; i += kTurn) {
    vectors::prefetch(g + i, kTurn, kAhead);
    sums.add_turn(g + i);
  }
  G rest[kTurn] = {};
  std::memcpy(rest, g + i, static_cast<std::size_t>(count - i) * sizeof(G));
  sums.add_turn(rest);
  return sums.total();
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
