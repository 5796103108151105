// Rotary position embedding; letters as in README.md.
#pragma once

#include <cstdint>

namespace crucible::rope {

struct Size {
  std::int64_t T;  // tokens
  std::int64_t A;  // heads
  std::int64_t D;  // elements of a head, even
};

// Contiguous; x and y are [T, A, D], both float32 or both bfloat16.
struct Rotation {
  Size size;
  bool bfloat16;
  bool back;  // by the same angles the other way
  const void* x;
  const float* cos;  // [T, D / 2]
  const float* sin;
  void* y;
};

namespace cpu {
// The same bits for any number of threads.
void rotate(const Rotation& r, int threads);
}  // namespace cpu

}  // namespace crucible::rope
