// The door of varlen_attention: outputs are allocated by the caller and written here.
#include "../../kernels/varlen_attention/launch.h"
#include "../check.h"
#include "../library.h"
#include "segments.h"

namespace crucible {
namespace py = pybind11;
namespace {

namespace op = varlen_attention;
constexpr const char* kOp = "varlen_attention";

void* array(const char* argument, const TensorRef& tensor, const char* letters,
            std::initializer_list<std::int64_t> shape, DataType dtype) {
  check_shape(kOp, argument, tensor, letters, shape);
  check_on_cpu(kOp, argument, tensor);
  check_dtype(kOp, argument, tensor, {dtype});
  check_contiguous(kOp, argument, tensor);
  return tensor.data();
}

void* array(const char* argument, py::handle object, const char* letters,
            std::initializer_list<std::int64_t> shape, DataType dtype) {
  return array(argument, TensorRef(kOp, argument, object), letters, shape, dtype);
}

struct Call {
  op::Inputs in;
  DataType dtype;
};

Call call_of(py::handle q, py::handle k, py::handle v, py::handle bounds, py::handle parents,
             double scale, std::int64_t window) {
  const TensorRef queries(kOp, "q", q), keys(kOp, "k", k);
  check_ndim(kOp, "q", queries, "[T, A, D]", 3);
  check_ndim(kOp, "k", keys, "[T, G, D]", 3);
  check_dtype(kOp, "q", queries, {kFloat32, kBFloat16});
  const std::int64_t T = queries.size(0), A = queries.size(1), D = queries.size(2);
  const std::int64_t G = keys.size(1);
  if (G < 1 || A < 1 || D < 1 || A % G != 0) {
    refuse_value(kOp, "the heads of q must be a multiple of those of k, got " + std::to_string(A) +
                          " and " + std::to_string(G));
  }
  if (window < 0) refuse_value(kOp, "window must be at least 0, got " + std::to_string(window));
  const DataType dtype = queries.dtype();
  return {{{T, A, G, D},
           segments_of(bounds, parents, T),
           static_cast<float>(scale),
           window,
           dtype == kBFloat16,
           array("q", queries, "[T, A, D]", {T, A, D}, dtype),
           array("k", keys, "[T, G, D]", {T, G, D}, dtype),
           array("v", v, "[T, G, D]", {T, G, D}, dtype)},
          dtype};
}

float* lse_of(py::handle lse, const op::Size& size) {
  return static_cast<float*>(array("lse", lse, "[T, A]", {size.T, size.A}, kFloat32));
}

void forward(py::handle q, py::handle k, py::handle v, py::handle bounds, py::handle parents,
             double scale, std::int64_t window, py::handle out, py::handle lse, int threads) {
  check_threads(kOp, threads);
  const auto [in, dtype] = call_of(q, k, v, bounds, parents, scale, window);
  const op::Size& s = in.size;
  const op::Forward call{in, array("out", out, "[T, A, D]", {s.T, s.A, s.D}, dtype),
                         lse_of(lse, s)};
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(varlen_attention, forward);
  run(call, threads);
}

void backward(py::handle dout, py::handle q, py::handle k, py::handle v, py::handle out,
              py::handle lse, py::handle bounds, py::handle parents, double scale,
              std::int64_t window, py::handle dq, py::handle dk, py::handle dv, int threads) {
  check_threads(kOp, threads);
  const auto [in, dtype] = call_of(q, k, v, bounds, parents, scale, window);
  const op::Size& s = in.size;
  const op::Backward call{in,
                          array("dout", dout, "[T, A, D]", {s.T, s.A, s.D}, dtype),
                          array("out", out, "[T, A, D]", {s.T, s.A, s.D}, dtype),
                          lse_of(lse, s),
                          array("dq", dq, "[T, A, D]", {s.T, s.A, s.D}, dtype),
                          array("dk", dk, "[T, G, D]", {s.T, s.G, s.D}, dtype),
                          array("dv", dv, "[T, G, D]", {s.T, s.G, s.D}, dtype)};
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(varlen_attention, backward);
  run(call, threads);
}

}  // namespace

void bind_varlen_attention(py::module_& m) {
  m.def("varlen_attention_forward", &forward,
        "Writes out and lse, the heads' outputs and log-sums; tensors on the CPU.");
  m.def("varlen_attention_backward", &backward, "Writes dq, dk and dv; tensors on the CPU.");
}

}  // namespace crucible
