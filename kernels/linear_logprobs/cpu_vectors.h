// Functions of whole vectors of float32, as wide as the products'.
#pragma once

#include <cstdint>

#include "../common/int16.h"

namespace crucible::linear_logprobs::cpu {
namespace {

using gemm::kWidth;
using gemm::load;
using gemm::store;
using Vec = gemm::Vector;
using IntVec = std::int32_t __attribute__((vector_size(4 * kWidth)));

inline Vec all(float x) { return Vec{} + x; }
inline Vec choose(IntVec where, Vec yes, Vec no) {
  return reinterpret_cast<Vec>((where & reinterpret_cast<IntVec>(yes)) |
                               (~where & reinterpret_cast<IntVec>(no)));
}

inline bool any(IntVec lanes) {
  std::int32_t found = 0;
  for (int i = 0; i < kWidth; ++i) found |= lanes[i];
  return found != 0;
}

// For x below 88; 0 below -87. Within 2 units in the last place: 2^n times the Taylor series to
// degree 7 of the rest, which is at most ln(2) / 2. NaN stays NaN.
inline Vec exponential(Vec x) {
  const Vec lowest = all(-87.0F);
  const IntVec vanishes = x < lowest;
  x = choose(vanishes, lowest, x);
  // Adding 1.5 * 2^23 rounds to an integer, which then sits in the low bits.
  const Vec magic = all(12582912.0F);
  const Vec shifted = x * 1.44269504F + magic;
  const Vec n = shifted - magic;
  const Vec r = x - n * 0.693359375F + n * 2.12194440e-4F;  // ln 2 in two parts
  Vec y = all(1.0F / 5040.0F);
  for (const float c : {1.0F / 720, 1.0F / 120, 1.0F / 24, 1.0F / 6, 0.5F, 1.0F, 1.0F}) {
    y = y * r + c;
  }
  const IntVec power = (reinterpret_cast<IntVec>(shifted) - 0x4b400000 + 127) << 23;
  y *= reinterpret_cast<Vec>(power);
  return reinterpret_cast<Vec>(reinterpret_cast<IntVec>(y) & ~vanishes);
}

// tanh as 2 / (1 + exp(-2x)) - 1, from the side where the exponential cannot overflow.
inline Vec hyperbolic_tangent(Vec x) {
  const IntVec negative = x < all(0.0F);
  const Vec e = exponential(-2.0F * choose(negative, -x, x));
  const Vec t = (1.0F - e) / (1.0F + e);
  return choose(negative, -t, t);
}

}  // namespace
}  // namespace crucible::linear_logprobs::cpu
