// The door of swiglu: outputs are allocated by the caller and written here.
#include "../../kernels/swiglu/launch.h"
#include "../check.h"
#include "../layout.h"
#include "../library.h"

namespace crucible {
namespace py = pybind11;
namespace {

constexpr const char* kOp = "swiglu";

// The memory of a tensor that is like `first`: on the CPU, contiguous, of one dtype and size.
void* memory(const char* argument, py::handle object, const TensorRef& first) {
  const TensorRef tensor(kOp, argument, object);
  check_on_cpu(kOp, argument, tensor);
  check_dtype(kOp, argument, tensor, {first.dtype()});
  check_contiguous(kOp, argument, tensor);
  if (!same_shape(tensor, first)) {
    refuse_value(kOp, std::string(argument) + " must have gate's shape, " + show_shape(first) +
                          ", got " + show_shape(tensor));
  }
  return tensor.data();
}

// Whether the kernel takes them as they are.
bool fits(py::handle gate, py::handle up) {
  return they_fit([&] {
    const TensorRef first(kOp, "gate", gate), other(kOp, "up", up);
    return first.on_cpu() && other.on_cpu() && same_shape(first, other) &&
           (first.dtype() == kFloat32 || first.dtype() == kBFloat16) &&
           first.dtype() == other.dtype() && first.is_contiguous() && other.is_contiguous();
  });
}

TensorRef gate_of(py::handle object) {
  TensorRef gate(kOp, "gate", object);
  check_dtype(kOp, "gate", gate, {kFloat32, kBFloat16});
  return gate;
}

void forward(py::handle gate, py::handle up, py::handle y, int threads) {
  check_threads(kOp, threads);
  const TensorRef first = gate_of(gate);
  const swiglu::Forward call{first.numel(), first.dtype() == kBFloat16, memory("gate", gate, first),
                             memory("up", up, first), memory("y", y, first)};
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(swiglu, forward);
  run(call, threads);
}

void backward(py::handle dy, py::handle gate, py::handle up, py::handle dgate, py::handle dup,
              int threads) {
  check_threads(kOp, threads);
  const TensorRef first = gate_of(gate);
  const swiglu::Backward call{first.numel(),
                              first.dtype() == kBFloat16,
                              memory("dy", dy, first),
                              memory("gate", gate, first),
                              memory("up", up, first),
                              memory("dgate", dgate, first),
                              memory("dup", dup, first)};
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(swiglu, backward);
  run(call, threads);
}

}  // namespace

void bind_swiglu(py::module_& m) {
  m.def("swiglu_fits", &fits,
        "Whether plain tensors have one shape and dtype, and the forward takes them as they are.");
  m.def("swiglu_forward", &forward, "Writes y = silu(gate) * up; tensors on the CPU.");
  m.def("swiglu_backward", &backward, "Writes the gradients of gate and up; tensors on the CPU.");
}

}  // namespace crucible
