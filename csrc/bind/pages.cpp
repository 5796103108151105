// The door to pages: memory of tensors on the CPU that maps a file.
#include "../pages.h"

#include "../check.h"

namespace crucible {
namespace py = pybind11;
namespace {

TensorRef checked(const char* function, py::handle object) {
  const TensorRef tensor(function, "tensor", object);
  check_on_cpu(function, "tensor", tensor);
  check_contiguous(function, "tensor", tensor);
  return tensor;
}

std::size_t bytes(const TensorRef& tensor) {
  return static_cast<std::size_t>(tensor.numel() * tensor.dtype().bits / 8);
}

bool unwritten(py::handle object) {
  const TensorRef tensor = checked("pages_unwritten", object);
  const py::gil_scoped_release others_run;
  return is_of_file(tensor.data(), bytes(tensor));
}

bool returned(py::handle object) {
  const TensorRef tensor = checked("pages_give_back", object);
  const py::gil_scoped_release others_run;
  return give_back(tensor.data(), bytes(tensor));
}

}  // namespace

void bind_pages(py::module_& m) {
  m.def("pages_unwritten", &unwritten,
        "Whether a tensor's memory maps a file, and nobody has written to a page of it.");
  m.def("pages_give_back", &returned,
        "Takes such memory from the process until it is touched; returns whether it is such.");
}

}  // namespace crucible
