// Many small tensors in few launches: each launch carries a table of tensors in its arguments, and
// each block finds its tensor and its part of it there, so nothing is copied to the device first.
#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "../common/entry.h"
#include "launch.h"

namespace crucible::adamw_step::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 8;
constexpr std::int64_t kPerBlock = std::int64_t{kThreads} * kPerThread;
// What fits into the 4 KiB of arguments that every device takes.
constexpr int kTensorsPerLaunch = 56;
constexpr std::int64_t kMostBlocks = 0x7fffffff;  // of a grid

struct Table {
  Tensors tensors[kTensorsPerLaunch];
  std::uint32_t first_block[kTensorsPerLaunch + 1];  // [i + 1] is past the last block of i
  std::int32_t size;
};
static_assert(sizeof(Table) + sizeof(Constants) <= 4096);

template <typename P, typename G, bool kStochastic>
__device__ void update_block(const Tensors& t, const Constants& c, std::int64_t first) {
  auto* __restrict__ p = static_cast<P*>(t.param) + first;
  const auto* __restrict__ g = static_cast<const G*>(t.grad) + first;
  float* __restrict__ m = t.exp_avg + first;
  float* __restrict__ v = t.exp_avg_sq + first;
  const std::int64_t left = t.numel - first;
  // All loads before the first store: many of them in flight hide the memory's latency.
  float p_old[kPerThread], g_old[kPerThread], m_new[kPerThread], v_new[kPerThread];
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int k = i * kThreads + static_cast<int>(threadIdx.x);
    if (k < left) {
      p_old[i] = widen(p[k]);
      g_old[i] = widen(g[k]);
      m_new[i] = m[k];
      v_new[i] = v[k];
    }
  }
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int k = i * kThreads + static_cast<int>(threadIdx.x);
    if (k < left) {
      const float next = update(c, t.corrections, p_old[i], g_old[i], m_new[i], v_new[i]);
      narrow<kStochastic>(next, t.corrections.key, static_cast<std::uint32_t>(first + k), p[k]);
      m[k] = m_new[i];
      v[k] = v_new[i];
    }
  }
}

template <bool kStochastic>
__global__ void __launch_bounds__(kThreads)
    update_kernel(const __grid_constant__ Table table, const __grid_constant__ Constants c) {
  int i = 0;
  while (blockIdx.x >= table.first_block[i + 1]) ++i;
  const Tensors& t = table.tensors[i];
  const std::int64_t first = (blockIdx.x - table.first_block[i]) * kPerBlock;
  if (t.param_is_bfloat16) {
    t.grad_is_bfloat16 ? update_block<BFloat16, BFloat16, kStochastic>(t, c, first)
                       : update_block<BFloat16, float, kStochastic>(t, c, first);
  } else {
    t.grad_is_bfloat16 ? update_block<float, BFloat16, kStochastic>(t, c, first)
                       : update_block<float, float, kStochastic>(t, c, first);
  }
}

void launch_table(const Table& table, const Step& step, cudaStream_t stream) {
  const std::uint32_t blocks = table.first_block[table.size];
  if (blocks == 0) return;
  if (step.stochastic_rounding) {
    update_kernel<true><<<blocks, kThreads, 0, stream>>>(table, step.constants);
  } else {
    update_kernel<false><<<blocks, kThreads, 0, stream>>>(table, step.constants);
  }
  if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess) {
    throw std::runtime_error("adamw_step: launch failed on " + std::to_string(table.size) +
                             " tensors in " + std::to_string(blocks) +
                             " blocks: " + cudaGetErrorString(status));
  }
}

}  // namespace

void launch(const Step& step, void* stream) {
  Table table{};
  const auto send = [&] {
    launch_table(table, step, static_cast<cudaStream_t>(stream));
    table.size = 0;
  };
  for (const Tensors& tensor : step.tensors) {
    const std::int64_t blocks = (tensor.numel + kPerBlock - 1) / kPerBlock;
    if (blocks > kMostBlocks) {
      throw std::runtime_error("adamw_step: a tensor of " + std::to_string(tensor.numel) +
                               " elements is more than one grid takes");
    }
    if (table.size == kTensorsPerLaunch || table.first_block[table.size] + blocks > kMostBlocks) {
      send();
    }
    table.tensors[table.size] = tensor;
    table.first_block[table.size + 1] =
        table.first_block[table.size] + static_cast<std::uint32_t>(blocks);
    ++table.size;
  }
  send();
}

}  // namespace crucible::adamw_step::cuda

CRUCIBLE_ENTRY(adamw_step, launch)
