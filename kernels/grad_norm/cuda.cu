// One block sums one chunk; a last block adds the sums of the chunks. No atomics: the order of
// every addition is fixed.
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "../common/bfloat16.h"
#include "../common/entry.h"
#include "launch.h"

namespace crucible::grad_norm::cuda {
namespace {

constexpr int kThreads = 256;
// What fits into the 4 KiB of arguments that every device takes.
constexpr int kTensorsPerLaunch = 128;

struct Table {
  Gradient gradients[kTensorsPerLaunch];
  std::uint32_t first_block[kTensorsPerLaunch + 1];  // [i + 1] is past the last block of i
  std::int32_t size;
};
static_assert(sizeof(Table) + sizeof(double*) <= 4096);

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
    sum_chunks(const __grid_constant__ Table table, double* partials) {
  int i = 0;
  while (blockIdx.x >= table.first_block[i + 1]) ++i;
  const Gradient& gradient = table.gradients[i];
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
  Table table{};
  std::int64_t sent = 0;
  const auto send = [&] {
    const std::uint32_t blocks = table.first_block[table.size];
    if (blocks > 0) {
      sum_chunks<<<blocks, kThreads, 0, on>>>(table, partials + sent);
      check_launch("sum_chunks", blocks);
    }
    sent += blocks;
    table.size = 0;
  };
  for (const Gradient& gradient : gradients) {
    if (table.size == kTensorsPerLaunch) send();
    table.gradients[table.size] = gradient;
    table.first_block[table.size + 1] =
        table.first_block[table.size] + static_cast<std::uint32_t>(chunks_of(gradient.numel));
    ++table.size;
  }
  send();
  root_of_sum<<<1, kThreads, 0, on>>>(partials, sent, norm);
  check_launch("root_of_sum", 1);
}

}  // namespace crucible::grad_norm::cuda

CRUCIBLE_ENTRY(grad_norm, launch)
