// The door of rms_norm: outputs are allocated by the caller and written here.
#include "../../kernels/rms_norm/launch.h"
#include "../check.h"
#include "../library.h"

namespace crucible {
namespace py = pybind11;
namespace {

constexpr const char* kOp = "rms_norm";

rms_norm::Array checked(const char* argument, const TensorRef& tensor) {
  check_on_cpu(kOp, argument, tensor);
  check_dtype(kOp, argument, tensor, {kFloat32, kBFloat16});
  check_contiguous(kOp, argument, tensor);
  return {tensor.data(), tensor.dtype() == kBFloat16};
}

// [M, N] in x's dtype; null for None.
rms_norm::Array matrix(const char* argument, py::handle object, const TensorRef& x) {
  if (object.is_none()) return {nullptr, false};
  const TensorRef tensor(kOp, argument, object);
  check_shape(kOp, argument, tensor, "[M, N]", {x.size(0), x.size(1)});
  check_dtype(kOp, argument, tensor, {x.dtype()});
  return checked(argument, tensor);
}

rms_norm::Array row(const char* argument, py::handle object, std::int64_t N) {
  const TensorRef tensor(kOp, argument, object);
  check_shape(kOp, argument, tensor, "[N]", {N});
  return checked(argument, tensor);
}

float* per_row(py::handle object, std::int64_t M) {
  const TensorRef tensor(kOp, "rstd", object);
  check_shape(kOp, "rstd", tensor, "[M]", {M});
  check_dtype(kOp, "rstd", tensor, {kFloat32});
  return static_cast<float*>(checked("rstd", tensor).data);
}

TensorRef rows_of(py::handle object) {
  TensorRef x(kOp, "x", object);
  check_ndim(kOp, "x", x, "[M, N]", 2);
  return x;
}

void forward(py::handle x, py::handle weight, double eps, py::handle y, py::handle rstd,
             int threads) {
  check_threads(kOp, threads);
  const TensorRef rows = rows_of(x);
  const rms_norm::Size size{rows.size(0), rows.size(1)};
  const rms_norm::Forward call{size,
                               static_cast<float>(eps),
                               checked("x", rows),
                               row("weight", weight, size.N),
                               matrix("y", y, rows),
                               per_row(rstd, size.M)};
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(rms_norm, forward);
  run(call, threads);
}

void backward(py::handle dy, py::handle x, py::handle weight, py::handle rstd, py::handle dx,
              py::handle dweight, int threads) {
  check_threads(kOp, threads);
  const TensorRef rows = rows_of(x);
  const rms_norm::Size size{rows.size(0), rows.size(1)};
  const rms_norm::Array into =
      dweight.is_none() ? rms_norm::Array{nullptr, false} : row("dweight", dweight, size.N);
  if (!dweight.is_none()) {
    check_dtype(kOp, "dweight", TensorRef(kOp, "dweight", dweight),
                {TensorRef(kOp, "weight", weight).dtype()});
  }
  const rms_norm::Backward call{size,
                                matrix("dy", dy, rows),
                                checked("x", rows),
                                row("weight", weight, size.N),
                                per_row(rstd, size.M),
                                matrix("dx", dx, rows),
                                into};
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(rms_norm, backward);
  run(call, threads);
}

}  // namespace

void bind_rms_norm(py::module_& m) {
  m.def("rms_norm_forward", &forward, "Writes y and rstd; tensors on the CPU.");
  m.def("rms_norm_backward", &backward,
        "Writes those of dx and dweight that are not None; tensors on the CPU.");
}

}  // namespace crucible
