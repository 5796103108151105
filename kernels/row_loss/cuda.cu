// One thread a row; row.h does the rest.
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "../common/entry.h"
#include "../common/tables.h"
#include "row.h"

namespace crucible::row_loss::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) each_row(const __grid_constant__ Call call) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < call.rows) compute_row(call, i);
}

}  // namespace

void launch(const Call& call, void* stream) {
  const std::int64_t blocks = (call.rows + kThreads - 1) / kThreads;
  if (blocks == 0) return;
  const std::string rows = std::to_string(call.rows) + " rows";
  if (blocks > kMostBlocks) throw std::runtime_error("row_loss: a grid takes fewer than " + rows);
  each_row<<<static_cast<unsigned>(blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(call);
  if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess) {
    throw std::runtime_error("row_loss: launch failed on " + rows + ": " +
                             cudaGetErrorString(status));
  }
}

}  // namespace crucible::row_loss::cuda

CRUCIBLE_ENTRY(row_loss, launch)
