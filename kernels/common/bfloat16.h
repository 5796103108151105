// bfloat16 in memory, float in arithmetic; for kernels on the CPU and on CUDA devices.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define CRUCIBLE_HOST_DEVICE __host__ __device__ __forceinline__
#else
// Always: a copy that stands alone in an object for a newer instruction set could be the one that
// the linker keeps for all of them.
#define CRUCIBLE_HOST_DEVICE inline __attribute__((always_inline))
#endif

// Before a loop of a few turns, known beforehand: it must be unrolled for its constants to be
// folded and for the loop around it to be vectorized.
#if defined(__CUDACC__) || defined(__clang__)
#define CRUCIBLE_UNROLL _Pragma("unroll")
#else
#define CRUCIBLE_UNROLL _Pragma("GCC unroll 16")
#endif

namespace crucible {

CRUCIBLE_HOST_DEVICE std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

CRUCIBLE_HOST_DEVICE float float_of(std::uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

struct BFloat16 {
  std::uint16_t bits;
};

CRUCIBLE_HOST_DEVICE float widen(float x) { return x; }
CRUCIBLE_HOST_DEVICE float widen(BFloat16 x) {
  return float_of(static_cast<std::uint32_t>(x.bits) << 16);
}

// The upper half of bits + up, which carries over where the rounding goes up. NaN stays NaN: a
// carry could turn its payload into an infinity or a zero.
CRUCIBLE_HOST_DEVICE BFloat16 cut(std::uint32_t bits, std::uint32_t up) {
  const bool nan = (bits & 0x7fffffffU) > 0x7f800000U;
  const std::uint32_t rounded = (bits + up) >> 16;
  return {static_cast<std::uint16_t>(nan ? (bits >> 16) | 0x40U : rounded)};
}

CRUCIBLE_HOST_DEVICE BFloat16 round_to_nearest(float x) {
  const std::uint32_t bits = bits_of(x);
  return cut(bits, 0x7fffU + ((bits >> 16) & 1U));
}

}  // namespace crucible
