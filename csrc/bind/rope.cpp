// The door of rope: the output is allocated by the caller and written here.
#include "../../kernels/rope/launch.h"
#include "../check.h"
#include "../library.h"

namespace crucible {
namespace py = pybind11;
namespace {

constexpr const char* kOp = "rope";

const float* angles(const char* argument, py::handle object, std::int64_t T, std::int64_t half) {
  const TensorRef tensor(kOp, argument, object);
  check_on_cpu(kOp, argument, tensor);
  check_dtype(kOp, argument, tensor, {kFloat32});
  check_shape(kOp, argument, tensor, "[T, D / 2]", {T, half});
  check_contiguous(kOp, argument, tensor);
  return tensor.data_as<float>();
}

void rotate(py::handle x, py::handle cos, py::handle sin, bool back, py::handle y, int threads) {
  check_threads(kOp, threads);
  const TensorRef from(kOp, "x", x), to(kOp, "y", y);
  check_ndim(kOp, "x", from, "[T, A, D]", 3);
  const std::int64_t T = from.size(0), A = from.size(1), D = from.size(2);
  if (D % 2 != 0) refuse_value(kOp, "D of x must be even, got " + std::to_string(D));
  check_on_cpu(kOp, "x", from);
  check_on_cpu(kOp, "y", to);
  check_dtype(kOp, "x", from, {kFloat32, kBFloat16});
  check_dtype(kOp, "y", to, {from.dtype()});
  check_shape(kOp, "y", to, "[T, A, D]", {T, A, D});
  check_contiguous(kOp, "x", from);
  check_contiguous(kOp, "y", to);
  const rope::Rotation call{{T, A, D},   from.dtype() == kBFloat16,    back,
                            from.data(), angles("cos", cos, T, D / 2), angles("sin", sin, T, D / 2),
                            to.data()};
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(rope, rotate);
  run(call, threads);
}

}  // namespace

void bind_rope(py::module_& m) {
  m.def("rope_rotate", &rotate,
        "Writes y, the heads of x turned by their tokens' angles, or back; tensors on the CPU.");
}

}  // namespace crucible
