// The door of adamw_step: lists of tensors in, everything changed in place.
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "../../kernels/adamw_step/launch.h"
#include "../check.h"
#include "../layout.h"
#include "../library.h"

namespace crucible {
namespace py = pybind11;
namespace {

constexpr const char* kOp = "adamw_step";

std::string element_of(const char* argument, std::size_t i) {
  return std::string(argument) + "[" + std::to_string(i) + "]";
}

void check_length(const char* argument, std::size_t got, std::size_t wanted) {
  if (got != wanted) {
    refuse_value(kOp, std::string(argument) + " must have " + std::to_string(wanted) +
                          " entries, as params, got " + std::to_string(got));
  }
}

struct Arguments {
  py::list params, grads, exp_avgs, exp_avg_sqs;
  std::vector<std::int64_t> steps;
  adamw_step::Options options;
  bool stochastic_rounding;
};

adamw_step::Tensors tensors_at(const Arguments& a, std::size_t i, bool on_cuda) {
  // Names are made for messages only: there are hundreds of tensors and nearly never an error.
  const auto view = [&](const char* argument, const py::list& list) {
    TensorRef tensor(kOp, argument, list[i]);
    if (on_cuda ? !tensor.on_cuda() : !tensor.on_cpu()) {
      refuse_value(kOp, element_of(argument, i) + " must be on " + (on_cuda ? "CUDA" : "the CPU") +
                            ", got " + show(tensor.device()));
    }
    return tensor;
  };
  const TensorRef param = view("params", a.params);
  const TensorRef grad = view("grads", a.grads);
  const TensorRef exp_avg = view("exp_avgs", a.exp_avgs);
  const TensorRef exp_avg_sq = view("exp_avg_sqs", a.exp_avg_sqs);
  check_dtype(kOp, "params", param, {kFloat32, kBFloat16});
  check_dtype(kOp, "grads", grad, {kFloat32, kBFloat16});
  check_dtype(kOp, "exp_avgs", exp_avg, {kFloat32});
  check_dtype(kOp, "exp_avg_sqs", exp_avg_sq, {kFloat32});
  if (!is_dense(param) || !same_layout(param, grad) || !same_layout(param, exp_avg) ||
      !same_layout(param, exp_avg_sq)) {
    refuse_value(kOp, element_of("params", i) +
                          " must be dense and share shape and strides with its gradient and its "
                          "moments, got " +
                          show_shape(param));
  }
  return {param.data(),
          grad.data(),
          exp_avg.data_as<float>(),
          exp_avg_sq.data_as<float>(),
          param.numel(),
          adamw_step::corrections_of(a.options, a.steps[i], static_cast<std::uint32_t>(i)),
          param.dtype() == kBFloat16,
          grad.dtype() == kBFloat16};
}

adamw_step::Step step_of(const Arguments& a, bool on_cuda) {
  const std::size_t count = a.params.size();
  check_length("grads", a.grads.size(), count);
  check_length("exp_avgs", a.exp_avgs.size(), count);
  check_length("exp_avg_sqs", a.exp_avg_sqs.size(), count);
  check_length("steps", a.steps.size(), count);
  adamw_step::Step step{{}, adamw_step::constants_of(a.options), a.stochastic_rounding};
  step.tensors.reserve(count);
  for (std::size_t i = 0; i < count; ++i) step.tensors.push_back(tensors_at(a, i, on_cuda));
  return step;
}

void on_cpu(const Arguments& arguments, int threads) {
  check_threads(kOp, threads);
  const adamw_step::Step step = step_of(arguments, false);
  const py::gil_scoped_release others_run;
  static const auto launch = CRUCIBLE_CPU(adamw_step, launch);
  launch(step, threads);
}

void on_cuda(const Arguments& arguments) {
  const adamw_step::Step step = step_of(arguments, true);
  if (step.tensors.empty()) return;
  void* stream = TensorRef(kOp, "params", arguments.params[0]).stream();
  const py::gil_scoped_release others_run;
  static const auto launch = CRUCIBLE_CUDA(adamw_step, launch);
  launch(step, stream);
}

}  // namespace

void bind_adamw_step(py::module_& m) {
  m.def(
      "adamw_step_cpu",
      [](py::list params, py::list grads, py::list exp_avgs, py::list exp_avg_sqs,
         std::vector<std::int64_t> steps, double lr, double beta1, double beta2, double eps,
         double weight_decay, double grad_scale, bool stochastic_rounding, std::uint64_t seed,
         int threads) {
        on_cpu({params,
                grads,
                exp_avgs,
                exp_avg_sqs,
                std::move(steps),
                {lr, beta1, beta2, eps, weight_decay, grad_scale, seed},
                stochastic_rounding},
               threads);
      },
      "One step of AdamW in place; tensors on the CPU.", py::arg("params"), py::arg("grads"),
      py::arg("exp_avgs"), py::arg("exp_avg_sqs"), py::arg("steps"), py::arg("lr"),
      py::arg("beta1"), py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"),
      py::arg("grad_scale"), py::arg("stochastic_rounding"), py::arg("seed"), py::arg("threads"));
  m.def(
      "adamw_step_cuda",
      [](py::list params, py::list grads, py::list exp_avgs, py::list exp_avg_sqs,
         std::vector<std::int64_t> steps, double lr, double beta1, double beta2, double eps,
         double weight_decay, double grad_scale, bool stochastic_rounding, std::uint64_t seed) {
        on_cuda({params,
                 grads,
                 exp_avgs,
                 exp_avg_sqs,
                 std::move(steps),
                 {lr, beta1, beta2, eps, weight_decay, grad_scale, seed},
                 stochastic_rounding});
      },
      "One step of AdamW in place; tensors on the current CUDA device, on its current stream.");
}

}  // namespace crucible
