// silu(gate) * up, elementwise.
#pragma once

#include <cstdint>

namespace crucible::swiglu {

// Arrays of `numel` elements, all float32 or all bfloat16.
struct Forward {
  std::int64_t numel;
  bool bfloat16;
  const void* gate;
  const void* up;
  void* y;
};

struct Backward {
  std::int64_t numel;
  bool bfloat16;
  const void* dy;
  const void* gate;
  const void* up;
  void* dgate;
  void* dup;
};

namespace cpu {
void forward(const Forward& f, int threads);
void backward(const Backward& b, int threads);
}  // namespace cpu

}  // namespace crucible::swiglu
