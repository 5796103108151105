// Running means in 8 bits: each is one of 256 numbers times the largest magnitude of its block.
//
// eight_bit.py lists the numbers and has their source. They are computed here: seven decades from
// 1e-7 to 1, each cut into twice as many equal parts as the one below, and a number in the middle
// of each part; beside them 0 and 1. Counted from 0, the number in part i of a decade with p parts
// has the rank p + i where numbers are signed (the lowest decade has 1 part), else p + i - 1 (it
// has 2).
#pragma once

#include <cmath>
#include <cstdint>

#include "../common/bfloat16.h"

namespace crucible::adamw_step {

constexpr std::int64_t kBlock = 256;  // elements that share a largest magnitude

namespace eight_bit_internal {

constexpr int kDecades = 7;

template <bool kSigned>
struct Ranks {
  static constexpr float kParts = kSigned ? 1.0F : 2.0F;  // of the lowest decade
  static constexpr int kShift = kSigned ? 0 : 1;
  static constexpr int kOne = kSigned ? 128 : 255;     // the rank of 1
  static constexpr int kZeroCode = kSigned ? 127 : 0;  // numbers rise with their codes
  static constexpr float kMostParts = kParts * (1 << (kDecades - 1));
};

// The rank of the number nearest to a magnitude in [0, 1]; NaN has that of 0.
template <bool kSigned>
CRUCIBLE_HOST_DEVICE int nearest_rank(float x) {
  using R = Ranks<kSigned>;
  float to_unit = 1e6F;  // brings the decade at hand to [0.1, 1)
  float p = R::kParts;
  float parts = p;
  float unit = x * to_unit;
  CRUCIBLE_UNROLL
  for (int decade = 1; decade < kDecades; ++decade) {
    to_unit /= 10.0F;
    p *= 2.0F;
    // Nearer to the decade's first number than to the last one of the decade below.
    const bool inside = x * to_unit >= 0.1F + 0.18F / p;
    parts = inside ? p : parts;
    unit = inside ? x * to_unit : unit;
  }
  const float part = (unit - 0.1F) * (parts / 0.9F);
  const float low = part > 0.0F ? part : 0.0F;
  const float kept = low < parts - 1.0F ? low : parts - 1.0F;
  int rank = static_cast<int>(parts) + static_cast<int>(kept) - R::kShift;
  rank = x * 1e6F >= 0.05F + 0.225F / R::kParts ? rank : 0;
  return x >= 1.0F - 0.225F / R::kMostParts ? R::kOne : rank;
}

template <bool kSigned>
CRUCIBLE_HOST_DEVICE float number_at(int rank) {
  using R = Ranks<kSigned>;
  const auto place = static_cast<float>(rank + R::kShift);     // p + i
  const float parts = float_of(bits_of(place) & 0x7f800000U);  // its greatest power of 2
  float from_unit = 1e-6F;
  float to_unit = 1e6F;
  float p = R::kParts;
  CRUCIBLE_UNROLL
  for (int decade = 1; decade < kDecades; ++decade) {
    to_unit /= 10.0F;
    p *= 2.0F;
    from_unit = place >= p ? 1.0F / to_unit : from_unit;
  }
  const float number = from_unit * (0.1F + 0.9F * ((place - parts + 0.5F) / parts));
  return rank == 0 ? 0.0F : rank == R::kOne ? 1.0F : number;
}

}  // namespace eight_bit_internal

// The code of the number nearest to x in [-1, 1], or [0, 1] where no number is negative.
template <bool kSigned>
CRUCIBLE_HOST_DEVICE std::uint8_t encode(float x) {
  using R = eight_bit_internal::Ranks<kSigned>;
  const int rank = eight_bit_internal::nearest_rank<kSigned>(kSigned ? fabsf(x) : x);
  if constexpr (!kSigned) return static_cast<std::uint8_t>(rank);
  const int lowest = rank < R::kOne ? rank : R::kOne - 1;  // there is 1 and no -1
  return static_cast<std::uint8_t>(R::kZeroCode + (x < 0.0F ? -lowest : rank));
}

template <bool kSigned>
CRUCIBLE_HOST_DEVICE float decode(std::uint8_t code) {
  using R = eight_bit_internal::Ranks<kSigned>;
  const int rank = static_cast<int>(code) - R::kZeroCode;
  const float number = eight_bit_internal::number_at<kSigned>(rank < 0 ? -rank : rank);
  return rank < 0 ? -number : number;
}

// What the elements of a block are divided by before they are encoded: anything divides zeros.
CRUCIBLE_HOST_DEVICE float divisor(float largest) {
  constexpr float kLeastNormal = 1.17549435e-38F;
  return largest > kLeastNormal ? largest : kLeastNormal;
}

}  // namespace crucible::adamw_step
