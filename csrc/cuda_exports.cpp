// The one symbol of the CUDA library.
#include "cuda_library.h"

extern "C" __attribute__((visibility("default"))) const crucible::CudaLaunchers*
crucible_cuda_launchers() {
  static const crucible::CudaLaunchers launchers{crucible::adamw_step::cuda::launch,
                                                 crucible::grad_norm::cuda::launch};
  return &launchers;
}
