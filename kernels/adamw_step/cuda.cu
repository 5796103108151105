// One launch for as many tensors as a table holds (../common/tables.h). Whether the step is taken
// is read on the device, so the host need not wait for the norm.
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <type_traits>

#include "../common/entry.h"
#include "../common/tables.h"
#include "launch.h"

namespace crucible::adamw_step::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanes = 32;  // of a warp
// A warp takes the elements that share a scale, so their largest magnitude is found within it.
constexpr int kPerThread = static_cast<int>(kBlock) / kLanes;
constexpr std::int64_t kPerBlock = std::int64_t{kThreads} * kPerThread;

// M is the type of running means in memory: float, BFloat16, or that of codes.
template <typename M>
constexpr bool kEightBit = std::is_same_v<M, std::uint8_t>;

struct Shared {
  Constants constants;
  Guard guard;
};
using Launched = Table<Tensors, sizeof(Shared)>;
static_assert(sizeof(Launched) + sizeof(Shared) <= kArgumentBytes);

__device__ float largest_of_warp(float mine) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    mine = fmaxf(mine, __shfl_xor_sync(0xffffffffU, mine, half));
  }
  return mine;
}

// What one lane has of its warp's elements: [i] is element i * kLanes + lane.
struct Lane {
  float p[kPerThread], g[kPerThread], m[kPerThread], v[kPerThread];
};

// All loads before the first store: many of them in flight hide the memory's latency. Elements
// past the end are zeros, which change no maximum.
template <typename P, typename G, typename M>
__device__ Lane load(const Tensors& t, std::int64_t first) {
  const auto* __restrict__ p = static_cast<const P*>(t.param);
  const auto* __restrict__ g = static_cast<const G*>(t.grad);
  const auto* __restrict__ m = static_cast<const M*>(t.exp_avg);
  const auto* __restrict__ v = static_cast<const M*>(t.exp_avg_sq);
  float m_scale = 1.0F, v_scale = 1.0F;
  if constexpr (kEightBit<M>) {
    m_scale = t.exp_avg_scales[first / kBlock];
    v_scale = t.exp_avg_sq_scales[first / kBlock];
  }
  Lane lane{};
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const std::int64_t k = first + i * kLanes + threadIdx.x % kLanes;
    if (k >= t.numel) continue;
    lane.p[i] = widen(p[k]);
    lane.g[i] = widen(g[k]);
    if constexpr (kEightBit<M>) {
      lane.m[i] = decode<true>(m[k]) * m_scale;
      lane.v[i] = decode<false>(v[k]) * v_scale;
    } else {
      lane.m[i] = widen(m[k]);
      lane.v[i] = widen(v[k]);
    }
  }
  return lane;
}

template <typename M>
__device__ void store_moments(const Tensors& t, const Lane& lane, std::int64_t first) {
  auto* __restrict__ m = static_cast<M*>(t.exp_avg);
  auto* __restrict__ v = static_cast<M*>(t.exp_avg_sq);
  float m_largest = 0.0F, v_largest = 0.0F;
  if constexpr (kEightBit<M>) {
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      m_largest = fmaxf(m_largest, fabsf(lane.m[i]));
      v_largest = fmaxf(v_largest, lane.v[i]);
    }
    m_largest = largest_of_warp(m_largest);
    v_largest = largest_of_warp(v_largest);
    if (threadIdx.x % kLanes == 0) {
      t.exp_avg_scales[first / kBlock] = m_largest;
      t.exp_avg_sq_scales[first / kBlock] = v_largest;
    }
  }
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const std::int64_t k = first + i * kLanes + threadIdx.x % kLanes;
    if (k >= t.numel) continue;
    if constexpr (kEightBit<M>) {
      m[k] = encode<true>(lane.m[i] / divisor(m_largest));
      v[k] = encode<false>(lane.v[i] / divisor(v_largest));
    } else {
      narrow<false>(lane.m[i], 0, 0, m[k]);
      narrow<true>(lane.v[i], t.corrections.square_key, static_cast<std::uint32_t>(k), v[k]);
    }
  }
}

// The elements of this warp, from `first` on.
template <typename P, typename G, typename M, bool kStochastic>
__device__ void update_warp(const Tensors& t, const Constants& c, float grad_factor,
                            std::int64_t first) {
  Lane lane = load<P, G, M>(t, first);
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const std::int64_t k = first + i * kLanes + threadIdx.x % kLanes;
    const float next =
        update(c, t.corrections, lane.p[i], grad_factor * lane.g[i], lane.m[i], lane.v[i]);
    if (k < t.numel) {
      narrow<kStochastic>(next, t.corrections.param_key, static_cast<std::uint32_t>(k),
                          static_cast<P*>(t.param)[k]);
    }
  }
  store_moments<M>(t, lane, first);
}

template <typename M, bool kStochastic>
__global__ void __launch_bounds__(kThreads)
    update_kernel(const __grid_constant__ Launched table, const __grid_constant__ Shared shared) {
  float grad_factor;
  if (!takes_step(shared.guard, grad_factor)) return;
  const int i = tensor_of(table.first_block, table.size, blockIdx.x);
  const Tensors& t = table.tensors[i];
  const std::int64_t first =
      (blockIdx.x - table.first_block[i]) * kPerBlock + threadIdx.x / kLanes * kBlock;
  if (first >= t.numel) return;  // all lanes of a warp alike
  const Constants& c = shared.constants;
  if (t.param_is_bfloat16) {
    t.grad_is_bfloat16 ? update_warp<BFloat16, BFloat16, M, kStochastic>(t, c, grad_factor, first)
                       : update_warp<BFloat16, float, M, kStochastic>(t, c, grad_factor, first);
  } else {
    t.grad_is_bfloat16 ? update_warp<float, BFloat16, M, kStochastic>(t, c, grad_factor, first)
                       : update_warp<float, float, M, kStochastic>(t, c, grad_factor, first);
  }
}

template <bool kStochastic>
auto kernel_of(Moments moments) {
  switch (moments) {
    case Moments::kFloat32:
      return update_kernel<float, kStochastic>;
    case Moments::kBFloat16:
      return update_kernel<BFloat16, kStochastic>;
    default:
      return update_kernel<std::uint8_t, kStochastic>;
  }
}

}  // namespace

void launch(const Step& step, void* stream) {
  const auto kernel =
      step.stochastic_rounding ? kernel_of<true>(step.moments) : kernel_of<false>(step.moments);
  const Shared shared{step.constants, step.guard};
  in_tables<Launched>("adamw_step", step.tensors, kPerBlock, [&](const Launched& table) {
    kernel<<<table.blocks(), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(table, shared);
    if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess) {
      throw std::runtime_error("adamw_step: launch failed on " + std::to_string(table.size) +
                               " tensors in " + std::to_string(table.blocks()) +
                               " blocks: " + cudaGetErrorString(status));
    }
  });
}

}  // namespace crucible::adamw_step::cuda

CRUCIBLE_ENTRY(adamw_step, launch)
