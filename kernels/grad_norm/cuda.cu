// One block sums one chunk; a last block adds the sums of the chunks. No atomics: the order of
// every addition is fixed.
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "../common/bfloat16.h"
#include "../common/entry.h"
#include "../common/tables.h"
#include "launch.h"

namespace crucible::grad_norm::cuda {
namespace {

constexpr int kThreads = 256;
using Launched = Table<Gradient, sizeof(double*)>;
static_assert(sizeof(Launched) + sizeof(double*) <= kArgumentBytes);

// The sum over the block, in thread 0, always added in the same order.
__device__ double block_sum(double mine) {
  __shared__ double sums[kThreads];
  sums[threadIdx.x] = mine;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  return sums[0];
}

__device__ double square_at(const Gradient& gradient, std::int64_t i) {
  const auto x = static_cast<double>(gradient.is_bfloat16
                                         ? widen(static_cast<const BFloat16*>(gradient.data)[i])
                                         : static_cast<const float*>(gradient.data)[i]);
  return x * x;
}

__global__ void __launch_bounds__(kThreads)
    sum_chunks(const __grid_constant__ Launched table, double* partials) {
  const int i = tensor_of(table.first_block, table.size, blockIdx.x);
  const Gradient& gradient = table.tensors[i];
  const std::int64_t first = (blockIdx.x - table.first_block[i]) * kChunk;
  const std::int64_t last = min(gradient.numel, first + kChunk);
  double sum = 0.0;
  for (std::int64_t k = first + threadIdx.x; k < last; k += kThreads) {
    sum += square_at(gradient, k);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    root_of_sum(const double* partials, std::int64_t count, double* norm) {
  double sum = 0.0;
  for (std::int64_t k = threadIdx.x; k < count; k += kThreads) sum += partials[k];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *norm = sqrt(sum);
}

void check_launch(const char* phase, std::int64_t blocks) {
  if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess) {
    throw std::runtime_error(std::string("grad_norm: launch of ") + phase + " failed on " +
                             std::to_string(blocks) + " blocks: " + cudaGetErrorString(status));
  }
}

}  // namespace

void launch(const std::vector<Gradient>& gradients, double* partials, double* norm, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  std::int64_t sent = 0;
  in_tables<Launched>("grad_norm", gradients, kChunk, [&](const Launched& table) {
    sum_chunks<<<table.blocks(), kThreads, 0, on>>>(table, partials + sent);
    check_launch("sum_chunks", table.blocks());
    sent += table.blocks();
  });
  root_of_sum<<<1, kThreads, 0, on>>>(partials, sent, norm);
  check_launch("root_of_sum", 1);
}

}  // namespace crucible::grad_norm::cuda

CRUCIBLE_ENTRY(grad_norm, launch)
