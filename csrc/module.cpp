// The compiled half of crucible_kitchen. One bind_<op> a line; the arithmetic is in kernels/.
#include <pybind11/pybind11.h>

#include "../kernels/common/isa.h"
#include "../kernels/common/threads.h"
#include "cuda_library.h"

namespace crucible {
void bind_adamw_step(pybind11::module_& m);
void bind_grad_norm(pybind11::module_& m);
}  // namespace crucible

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of crucible_kitchen.";
  m.def(
      "isa", [] { return crucible::name_of(crucible::isa()); },
      "Level of instructions the CPU kernels use: generic, avx2, avx512 or avx512_bf16.");
  m.def("thread_runtime", &crucible::thread_runtime, "Whose threads the CPU kernels run on.");
  m.def("why_no_cuda", &crucible::why_no_cuda,
        "Why the CUDA half of the package cannot be used, or an empty string.");
  crucible::bind_adamw_step(m);
  crucible::bind_grad_norm(m);
}
