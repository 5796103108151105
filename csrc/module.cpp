// The extension. CRUCIBLE_DOORS is X(op) for each op of CMake's OPS; csrc/bind/<op>.cpp defines
// bind_<op>.
#include <pybind11/pybind11.h>

#include "../kernels/common/threads.h"
#include "library.h"

namespace crucible {
void bind_cubins(pybind11::module_& m);
void bind_decoder_layer(pybind11::module_& m);
void bind_lists(pybind11::module_& m);
void bind_pages(pybind11::module_& m);
#define X(op) void bind_##op(pybind11::module_& m);
CRUCIBLE_DOORS
#undef X
}  // namespace crucible

PYBIND11_MODULE(_C, m) {
  m.doc() = "Checked doors to the compiled kernels.";
  m.def("isa", &crucible::cpu_level,
        "Instruction set of the CPU kernels in use: generic, avx2 or avx512.");
  m.def(
      "thread_runtime", &crucible::thread_runtime,
      "Whose threads the CPU kernels run on: libgomp's, or std::thread where no OpenMP is loaded.");
  m.def("why_no_cuda", &crucible::why_no_cuda,
        "Why the CUDA kernels cannot be used, or an empty string.");
  crucible::bind_cubins(m);
  crucible::bind_decoder_layer(m);
  crucible::bind_lists(m);
  crucible::bind_pages(m);
#define X(op) crucible::bind_##op(m);
  CRUCIBLE_DOORS
#undef X
}
