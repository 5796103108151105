// Two vectors of elements at once. A word of memory holds two numbers of bfloat16: to take its
// halves apart costs one instruction each, where to widen one vector costs two. So the vectors
// may have every other element, as long as all arrays that meet in one formula are taken so.
#pragma once

#include "vectors.h"

namespace crucible::vectors {

#define CRUCIBLE_INLINE inline __attribute__((always_inline))

constexpr int kPair = 2 * kWidth;  // elements

// The first vector has: the elements of even places, or those of the first half.
enum class Order { kAlternate, kHalves };

template <typename Vector>
struct Two {
  Vector first, second;
};

constexpr std::uint32_t kUpper = 0xffff0000U;

template <Order kOrder>
CRUCIBLE_INLINE Two<Floats> load_pair(const float* p) {
  static_assert(kOrder == Order::kHalves, "numbers of 32 bits are loaded as they lie");
  return {load(p), load(p + kWidth)};
}
template <Order kOrder>
CRUCIBLE_INLINE Two<Floats> load_pair(const BFloat16* p) {
  if constexpr (kOrder == Order::kHalves) return {load(p), load(p + kWidth)};
  Words words;  // the element of the even place is the lower half
  std::memcpy(&words, p, sizeof words);
  return {reinterpret_cast<Floats>(words << 16), reinterpret_cast<Floats>(words & kUpper)};
}

// Each number plus `up`, in units of a float32's last bit, cut to bfloat16. Where elements
// alternate they are of arithmetic on bfloat16 alone, whose NaN has nothing in its lower half that
// `up` could carry over from; elsewhere NaN is looked for.
template <Order kOrder>
CRUCIBLE_INLINE void store_pair(BFloat16* p, Two<Floats> v, Two<Words> up) {
  if constexpr (kOrder == Order::kHalves) {
    store_upper(p, rounded(v.first, up.first));
    store_upper(p + kWidth, rounded(v.second, up.second));
  } else {
    const Words even = reinterpret_cast<Words>(v.first) + up.first;
    const Words odd = reinterpret_cast<Words>(v.second) + up.second;
    const Words words = (even >> 16) | (odd & kUpper);
    std::memcpy(p, &words, sizeof words);
  }
}

// 0, 1, 2, ...
CRUCIBLE_INLINE Words counted() {
  Words lanes;
  for (int lane = 0; lane < kWidth; ++lane) lanes[lane] = static_cast<std::uint32_t>(lane);
  return lanes;
}

#undef CRUCIBLE_INLINE

}  // namespace crucible::vectors
