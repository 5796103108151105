// The Euclidean norm of many tensors taken as one vector.
#pragma once

#include <cstdint>
#include <vector>

namespace crucible::grad_norm {

// Elements that are summed into one float64; the sums of chunks are added in order, so the result
// depends on neither the threads nor the device's schedule.
constexpr std::int64_t kChunk = 16384;

// A dense tensor.
struct Gradient {
  const void* data;
  std::int64_t numel;
  bool is_bfloat16;  // else float32
};

inline std::int64_t chunks_of(std::int64_t numel) { return (numel + kChunk - 1) / kChunk; }

inline std::int64_t chunks_of(const std::vector<Gradient>& gradients) {
  std::int64_t chunks = 0;
  for (const Gradient& gradient : gradients) chunks += chunks_of(gradient.numel);
  return chunks;
}

namespace cpu {
// The same bits for any number of threads.
double launch(const std::vector<Gradient>& gradients, int threads);
}  // namespace cpu

namespace cuda {
// Writes the norm to `norm`; `partials` has room for chunks_of(gradients). Both are on the current
// device, and `stream` is a cudaStream_t; does not wait.
void launch(const std::vector<Gradient>& gradients, double* partials, double* norm, void* stream);
}  // namespace cuda

}  // namespace crucible::grad_norm
