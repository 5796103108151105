// The extension. One line an op; its door is csrc/bind/<op>.cpp.
#include <pybind11/pybind11.h>

#include "library.h"

namespace py = pybind11;

namespace crucible {
void bind_lora_linear(py::module_& m);
void bind_linear_logprobs(py::module_& m);
void bind_adamw_step(py::module_& m);
void bind_grad_norm(py::module_& m);
}  // namespace crucible

PYBIND11_MODULE(_C, m) {
  m.doc() = "Checked doors to the compiled kernels.";
  m.def(
      "cpu_kernels", [] { return crucible::cpu_library().name(); },
      "The library of CPU kernels in use, such as crucible_cpu_avx2.");
  m.def("has_cuda_kernels", &crucible::has_cuda_library,
        "Whether this build has CUDA kernels; opens nothing.");
#if defined(CRUCIBLE_HAS_LORA_LINEAR)
  crucible::bind_lora_linear(m);
#endif
#if defined(CRUCIBLE_HAS_LINEAR_LOGPROBS)
  crucible::bind_linear_logprobs(m);
#endif
#if defined(CRUCIBLE_HAS_ADAMW_STEP)
  crucible::bind_adamw_step(m);
#endif
#if defined(CRUCIBLE_HAS_GRAD_NORM)
  crucible::bind_grad_norm(m);
#endif
}
