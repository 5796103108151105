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

rms_norm::Array row(const char* argument, const TensorRef& tensor, std::int64_t N) {
  check_shape(kOp, argument, tensor, "[N]", {N});
  return checked(argument, tensor);
}

// Of the weight, in its dtype; null for None.
rms_norm::Array gradient_of(const TensorRef& weight, py::handle dweight, std::int64_t N) {
  if (dweight.is_none()) return {nullptr, false};
  const TensorRef tensor(kOp, "dweight", dweight);
  check_dtype(kOp, "dweight", tensor, {weight.dtype()});
  return row("dweight", tensor, N);
}

// Null for None.
float* per_row(py::handle object, std::int64_t M) {
  if (object.is_none()) return nullptr;
  const TensorRef tensor(kOp, "rstd", object);
  check_shape(kOp, "rstd", tensor, "[M]", {M});
  check_dtype(kOp, "rstd", tensor, {kFloat32});
  return static_cast<float*>(checked("rstd", tensor).data);
}

// Whether the kernel takes them as they are.
bool fits(py::handle x, py::handle weight) {
  return they_fit([&] {
    const TensorRef rows(kOp, "x", x), gain(kOp, "weight", weight);
    const auto taken = [](DataType dtype) { return dtype == kFloat32 || dtype == kBFloat16; };
    return rows.on_cpu() && gain.on_cpu() && rows.ndim() == 2 && gain.ndim() == 1 &&
           rows.size(1) == gain.size(0) && rows.size(1) > 0 && taken(rows.dtype()) &&
           (gain.dtype() == rows.dtype() || gain.dtype() == kFloat32) && rows.is_contiguous() &&
           gain.is_contiguous();
  });
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
                               row("weight", TensorRef(kOp, "weight", weight), size.N),
                               matrix("y", y, rows),
                               per_row(rstd, size.M)};
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(rms_norm, forward);
  run(call, threads);
}

void backward(py::handle dy, py::handle x, py::handle weight, py::handle rstd, py::handle dx,
              py::handle dweight, int threads) {
  check_threads(kOp, threads);
  if (rstd.is_none()) refuse_value(kOp, "rstd must be given for gradients, got None");
  const TensorRef rows = rows_of(x);
  const rms_norm::Size size{rows.size(0), rows.size(1)};
  const TensorRef gain(kOp, "weight", weight);
  const rms_norm::Backward call{size,
                                matrix("dy", dy, rows),
                                checked("x", rows),
                                row("weight", gain, size.N),
                                per_row(rstd, size.M),
                                matrix("dx", dx, rows),
                                gradient_of(gain, dweight, size.N)};
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(rms_norm, backward);
  run(call, threads);
}

}  // namespace

void bind_rms_norm(py::module_& m) {
  m.def("rms_norm_fits", &fits,
        "Whether plain tensors fit each other, and the forward takes them as they are.");
  m.def("rms_norm_forward", &forward, "Writes y, and rstd if it is not None; tensors on the CPU.");
  m.def("rms_norm_backward", &backward,
        "Writes those of dx and dweight that are not None; tensors on the CPU.");
}

}  // namespace crucible
