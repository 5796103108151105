// The door of grad_norm: a list of tensors in, the norm out.
#include <string>
#include <vector>

#include "../../kernels/grad_norm/launch.h"
#include "../check.h"
#include "../layout.h"
#include "../library.h"

namespace crucible {
namespace py = pybind11;
namespace {

constexpr const char* kOp = "grad_norm";

std::vector<grad_norm::Gradient> gradients_of(const py::list& grads, bool on_cuda) {
  std::vector<grad_norm::Gradient> gradients;
  gradients.reserve(grads.size());
  for (const py::handle item : grads) {
    const TensorRef grad(kOp, "grads", item);
    check_dtype(kOp, "grads", grad, {kFloat32, kBFloat16});
    if (on_cuda ? !grad.on_cuda() : !grad.on_cpu()) {
      refuse_value(kOp, std::string("grads must be on ") + (on_cuda ? "CUDA" : "the CPU") +
                            ", got " + show(grad.device()));
    }
    if (!is_dense(grad)) {
      refuse_value(kOp, "grads must be dense, got one of shape " + show_shape(grad) +
                            " with gaps in memory");
    }
    gradients.push_back({grad.data(), grad.numel(), grad.dtype() == kBFloat16});
  }
  return gradients;
}

double on_cpu(const py::list& grads, int threads) {
  check_threads(kOp, threads);
  const std::vector<grad_norm::Gradient> gradients = gradients_of(grads, false);
  const py::gil_scoped_release others_run;
  static const auto launch = CRUCIBLE_CPU(grad_norm, launch);
  return launch(gradients, threads);
}

void on_cuda(const py::list& grads, py::handle partials_out, py::handle norm_out) {
  const std::vector<grad_norm::Gradient> gradients = gradients_of(grads, true);
  const TensorRef partials(kOp, "partials", partials_out);
  const TensorRef norm(kOp, "norm", norm_out);
  check_shape(kOp, "partials", partials, "[CHUNKS]", {grad_norm::chunks_of(gradients)});
  check_shape(kOp, "norm", norm, "[]", {});
  check_dtype(kOp, "partials", partials, {kFloat64});
  check_dtype(kOp, "norm", norm, {kFloat64});
  if (!partials.on_cuda() || !norm.on_cuda()) {
    refuse_value(kOp, "partials and norm must be on CUDA, got " + show(partials.device()) +
                          " and " + show(norm.device()));
  }
  void* stream = norm.stream();
  const py::gil_scoped_release others_run;
  static const auto launch = CRUCIBLE_CUDA(grad_norm, launch);
  launch(gradients, partials.data_as<double>(), norm.data_as<double>(), stream);
}

}  // namespace

void bind_grad_norm(py::module_& m) {
  m.attr("grad_norm_chunk") = grad_norm::kChunk;
  m.def("grad_norm_cpu", &on_cpu, "The norm of tensors on the CPU.", py::arg("grads"),
        py::arg("threads"));
  m.def("grad_norm_cuda", &on_cuda,
        "Writes the norm of tensors on the current CUDA device to a float64 scalar there; partials "
        "has one float64 for every grad_norm_chunk elements, begun or full, of each tensor.");
}

}  // namespace crucible
