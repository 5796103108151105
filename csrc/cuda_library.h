// The CUDA half of the package: a second shared library beside the extension, opened on first use.
#pragma once

#include <string>
#include <vector>

#include "../kernels/adamw_step/launch.h"
#include "../kernels/grad_norm/launch.h"

namespace crucible {

// What the library offers: one launcher a kernel.
struct CudaLaunchers {
  void (*adamw_step)(const adamw_step::Step& step, void* stream);
  void (*grad_norm)(const std::vector<grad_norm::Gradient>& gradients, double* partials,
                    double* norm, void* stream);
};

// Throws std::runtime_error with the loader's reason where the library is absent or cannot be
// opened.
const CudaLaunchers& cuda_launchers();

// Why `cuda_launchers` would throw, or an empty string.
std::string why_no_cuda();

}  // namespace crucible
