// The door of linear_logprobs: outputs are allocated by the caller and written here.
#include <string>

#include "../../kernels/linear_logprobs/launch.h"
#include "../check.h"
#include "../library.h"

namespace crucible {
namespace py = pybind11;
namespace {

constexpr const char* kOp = "linear_logprobs";

TensorRef tensor(const char* argument, const py::handle& object) {
  const TensorRef view(kOp, argument, object);
  check_on_cpu(kOp, argument, view);
  return view;
}

[[noreturn]] void refuse(const std::string& what) {
  throw py::value_error(std::string(kOp) + ": " + what);
}

void check_rows(const char* argument, const TensorRef& view) {
  if (view.size(1) > 1 && view.stride(1) != 1) {
    refuse(std::string(argument) + " must have rows without gaps, got stride " +
           std::to_string(view.stride(1)) + " between elements");
  }
}

// A dense float32 tensor of the given shape.
float* floats(const char* argument, const py::handle& object, const char* letters,
              std::initializer_list<std::int64_t> shape) {
  const TensorRef view = tensor(argument, object);
  check_dtype(kOp, argument, view, {kFloat32});
  check_shape(kOp, argument, view, letters, shape);
  check_contiguous(kOp, argument, view);
  return view.data_as<float>();
}

struct Call {
  linear_logprobs::Inputs in;
  linear_logprobs::Size size;
  linear_logprobs::Options options;
};

// Values of targets are checked too: a wrong one would read beyond the head.
Call call_of(const py::handle& hidden, const py::handle& weight, const py::handle& targets,
             double softcap, double smoothing) {
  const TensorRef x_TH = tensor("hidden", hidden);
  const TensorRef w_VH = tensor("weight", weight);
  const TensorRef y_T = tensor("targets", targets);
  check_ndim(kOp, "hidden", x_TH, "[T, H]", 2);
  check_dtype(kOp, "hidden", x_TH, {kFloat32, kBFloat16});
  check_ndim(kOp, "weight", w_VH, "[V, H]", 2);
  check_dtype(kOp, "weight", w_VH, {x_TH.dtype()});
  check_shape(kOp, "weight", w_VH, "[V, H]", {w_VH.size(0), x_TH.size(1)});
  check_dtype(kOp, "targets", y_T, {kInt64});
  check_shape(kOp, "targets", y_T, "[T]", {x_TH.size(0)});
  check_contiguous(kOp, "targets", y_T);
  check_rows("hidden", x_TH);
  check_rows("weight", w_VH);
  const linear_logprobs::Size size{x_TH.size(0), x_TH.size(1), w_VH.size(0)};
  const auto* target = y_T.data_as<const std::int64_t>();
  for (std::int64_t t = 0; t < size.T; ++t) {
    if (target[t] < 0 || target[t] >= size.V) {
      refuse("targets must be in [0, V) = [0, " + std::to_string(size.V) + "), got " +
             std::to_string(target[t]) + " at position " + std::to_string(t));
    }
  }
  return {
      {x_TH.data(), w_VH.data(), target, x_TH.stride(0), w_VH.stride(0), x_TH.dtype() == kBFloat16},
      size,
      {static_cast<float>(softcap), static_cast<float>(smoothing), 0.0F, 0}};
}

void forward(const py::handle& hidden, const py::handle& weight, const py::handle& targets,
             double softcap, double smoothing, const py::handle& even_row,
             const py::handle& logprobs, const py::handle& lse, const py::handle& miss,
             const py::handle& slope, double eps, std::int64_t seed, const py::handle& sure,
             int threads) {
  Call call = call_of(hidden, weight, targets, softcap, smoothing);
  const std::int64_t T = call.size.T, H = call.size.H;
  const linear_logprobs::Outputs out{
      floats("logprobs", logprobs, "[T]", {T}), floats("lse", lse, "[T]", {T}),
      floats("miss", miss, "[T]", {T}),
      slope.is_none() ? nullptr : floats("slope", slope, "[T, H]", {T, H}),
      sure.is_none() ? nullptr : floats("sure", sure, "[T]", {T})};
  if (!(eps >= 0.0 && eps < 1.0)) refuse("eps must be in [0, 1), got " + std::to_string(eps));
  if (eps > 0.0 && (sure.is_none() || slope.is_none() || softcap != 0.0 || smoothing != 0.0)) {
    refuse("eps must be 0 unless slope and sure are given, softcap and smoothing 0");
  }
  call.options.eps = static_cast<float>(eps);
  call.options.seed = static_cast<std::uint64_t>(seed);  // any 64 bits: torch's are signed
  const float* even = even_row.is_none() ? nullptr : floats("even_row", even_row, "[H]", {H});
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(linear_logprobs, forward);
  run(call.in, call.size, call.options, even, out, threads);
}

void grad_weight(const py::handle& grad, const py::handle& hidden, const py::handle& weight,
                 const py::handle& targets, const py::handle& lse, const py::handle& miss,
                 double softcap, double smoothing, const py::handle& grad_of_weight, int threads) {
  const Call call = call_of(hidden, weight, targets, softcap, smoothing);
  const std::int64_t T = call.size.T;
  const linear_logprobs::Gradients gradients{floats("grad", grad, "[T]", {T}),
                                             floats("lse", lse, "[T]", {T}),
                                             floats("miss", miss, "[T]", {T})};
  const TensorRef dw_VH = tensor("grad_weight", grad_of_weight);
  check_dtype(kOp, "grad_weight", dw_VH, {call.in.bfloat16 ? kBFloat16 : kFloat32});
  check_shape(kOp, "grad_weight", dw_VH, "[V, H]", {call.size.V, call.size.H});
  check_contiguous(kOp, "grad_weight", dw_VH);
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(linear_logprobs, grad_weight);
  run(call.in, call.size, call.options, gradients, dw_VH.data(), threads);
}

void sum_gradients(const py::handle& hidden, const py::handle& weight, const py::handle& targets,
                   double smoothing, const py::handle& factors, const py::handle& logprobs,
                   const py::handle& grad_of_hidden, const py::handle& grad_of_weight,
                   int threads) {
  const Call call = call_of(hidden, weight, targets, 0.0, smoothing);
  if (call.in.bfloat16) refuse("sum_gradients: hidden must be float32, got bfloat16");
  const std::int64_t T = call.size.T, H = call.size.H, V = call.size.V;
  const float* factors_T = floats("factors", factors, "[T]", {T});
  const linear_logprobs::SumOutputs out{floats("logprobs", logprobs, "[T]", {T}),
                                        floats("grad_hidden", grad_of_hidden, "[T, H]", {T, H}),
                                        floats("grad_weight", grad_of_weight, "[V, H]", {V, H})};
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(linear_logprobs, sum_gradients);
  run(call.in, call.size, call.options, factors_T, out, threads);
}

}  // namespace

void bind_linear_logprobs(py::module_& m) {
  m.def("linear_logprobs_forward", &forward,
        "Writes logprobs, lse, miss and, unless None, slope; tensors on the CPU. With eps above 0 "
        "the slope is sampled, and sure is written.");
  m.def("linear_logprobs_grad_weight", &grad_weight,
        "Writes the gradient of the head; tensors on the CPU.");
  m.def("linear_logprobs_sum_gradients", &sum_gradients,
        "Writes logprobs, and both gradients of the sum of factors times them; float32 tensors on "
        "the CPU.");
}

}  // namespace crucible
