// What Python asks of all arguments of a call at once: there it would take longer than the call.
#include <pybind11/pybind11.h>

#include <algorithm>

#include "../layout.h"

namespace crucible {
namespace py = pybind11;
namespace {

bool is_list(py::handle object) {
  return PyList_CheckExact(object.ptr()) || PyTuple_CheckExact(object.ptr());
}

// Whether the type of every argument, and of every item of a list, is one of `types`.
bool only_of(const py::tuple& args, const py::frozenset& types) {
  const auto known = [&](py::handle object) { return types.contains(py::type::handle_of(object)); };
  return std::all_of(args.begin(), args.end(), [&](py::handle arg) {
    if (!is_list(arg)) return known(arg);
    const auto items = py::reinterpret_borrow<py::sequence>(arg);
    return std::all_of(items.begin(), items.end(), known);
  });
}

// Whether lists of tensors have one length, and all tensors of one place are on the CPU, contiguous
// and of one shape.
bool alike_on_cpu(const py::args& lists) {
  if (lists.empty() || !is_list(lists[0])) return false;
  const std::size_t count = py::len(lists[0]);
  for (const py::handle list : lists) {
    if (!is_list(list) || py::len(list) != count) return false;
  }
  const auto at = [](py::handle list, std::size_t i) {
    PyObject* item = PySequence_Fast_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i));
    return TensorRef("alike_on_cpu", "lists", item);
  };
  return they_fit([&] {
    for (std::size_t i = 0; i < count; ++i) {
      const TensorRef first = at(lists[0], i);
      for (const py::handle list : lists) {
        const TensorRef tensor = at(list, i);
        if (!tensor.on_cpu() || !tensor.is_contiguous() || !same_shape(first, tensor)) return false;
      }
    }
    return true;
  });
}

}  // namespace

void bind_lists(py::module_& m) {
  m.def("only_of", &only_of,
        "Whether each argument, or each item of one that is a list or a tuple, has one of the "
        "types.");
  m.def("alike_on_cpu", &alike_on_cpu,
        "Whether lists of tensors agree in length, and tensors of one place in shape, are on the "
        "CPU and contiguous. They must be plain: not fake, not traced.");
}

}  // namespace crucible
