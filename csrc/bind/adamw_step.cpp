// The door of adamw_step: lists of tensors in, everything changed in place.
#include <pybind11/stl.h>

#include <array>
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

// In the order of Lists.
constexpr std::array<const char*, 6> kNames{"params",      "grads",          "exp_avgs",
                                            "exp_avg_sqs", "exp_avg_scales", "exp_avg_sq_scales"};
using Lists = std::array<py::list, kNames.size()>;
// lr, beta1, beta2, eps, weight_decay, grad_scale, max_norm
using Numbers = std::array<double, 7>;

struct Arguments {
  const Lists& lists;
  py::object norm;
  const std::vector<std::int64_t>& steps;
  adamw_step::Options options;
  bool stochastic_rounding;

  bool has_scales() const { return !lists[4].empty(); }
};

Arguments arguments_of(const Lists& lists, py::object norm, const std::vector<std::int64_t>& steps,
                       const Numbers& n, bool stochastic_rounding, std::uint64_t seed) {
  return {lists,
          std::move(norm),
          steps,
          {n[0], n[1], n[2], n[3], n[4], n[5], n[6], seed},
          stochastic_rounding};
}

void check_lengths(const Arguments& a) {
  const std::size_t wanted = a.lists[0].size();
  const auto check = [&](const char* name, std::size_t got) {
    if (got != wanted) {
      refuse_value(kOp, std::string(name) + " must have " + std::to_string(wanted) +
                            " entries, as params, got " + std::to_string(got));
    }
  };
  for (std::size_t i = 1; i < 4; ++i) check(kNames[i], a.lists[i].size());
  check("steps", a.steps.size());
  if (!a.has_scales() && a.lists[5].empty()) return;
  for (std::size_t i = 4; i < 6; ++i) check(kNames[i], a.lists[i].size());
}

void check_place(const std::string& argument, const TensorRef& tensor, bool on_cuda) {
  if (on_cuda ? tensor.on_cuda() : tensor.on_cpu()) return;
  refuse_value(kOp, argument + " must be on " + (on_cuda ? "CUDA" : "the CPU") + ", got " +
                        show(tensor.device()));
}

// Names are made for messages only: there are hundreds of tensors and nearly never an error.
std::string element_of(std::size_t list, std::size_t i) {
  return std::string(kNames[list]) + "[" + std::to_string(i) + "]";
}

TensorRef tensor_at(const Arguments& a, std::size_t list, std::size_t i, bool on_cuda) {
  TensorRef tensor(kOp, kNames[list], a.lists[list][i]);
  if (on_cuda ? !tensor.on_cuda() : !tensor.on_cpu()) {
    check_place(element_of(list, i), tensor, on_cuda);
  }
  return tensor;
}

float* scales_at(const Arguments& a, std::size_t list, std::size_t i, std::int64_t numel,
                 bool on_cuda) {
  if (!a.has_scales()) return nullptr;
  const TensorRef scales = tensor_at(a, list, i, on_cuda);
  check_dtype(kOp, kNames[list], scales, {kFloat32});
  check_shape(kOp, kNames[list], scales, "[BLOCKS]", {adamw_step::blocks_of(numel)});
  check_contiguous(kOp, kNames[list], scales);
  return scales.data_as<float>();
}

// What the first running mean is kept in, as all others must be.
DataType moments_of(const Arguments& a) {
  if (a.has_scales()) return kUInt8;
  if (a.lists[2].empty()) return kFloat32;
  const TensorRef first(kOp, kNames[2], a.lists[2][0]);
  check_dtype(kOp, kNames[2], first, {kFloat32, kBFloat16});
  return first.dtype();
}

adamw_step::Tensors tensors_at(const Arguments& a, std::size_t i, DataType moments, bool on_cuda) {
  const TensorRef param = tensor_at(a, 0, i, on_cuda);
  const TensorRef grad = tensor_at(a, 1, i, on_cuda);
  const TensorRef exp_avg = tensor_at(a, 2, i, on_cuda);
  const TensorRef exp_avg_sq = tensor_at(a, 3, i, on_cuda);
  check_dtype(kOp, "params", param, {kFloat32, kBFloat16});
  check_dtype(kOp, "grads", grad, {kFloat32, kBFloat16});
  check_dtype(kOp, "exp_avgs", exp_avg, {moments});
  check_dtype(kOp, "exp_avg_sqs", exp_avg_sq, {moments});
  if (!is_dense(param) || !same_layout(param, grad) || !same_layout(param, exp_avg) ||
      !same_layout(param, exp_avg_sq)) {
    refuse_value(kOp, element_of(0, i) +
                          " must be dense and share shape and strides with its gradient and its "
                          "moments, got " +
                          show_shape(param));
  }
  return {param.data(),
          grad.data(),
          exp_avg.data(),
          exp_avg_sq.data(),
          scales_at(a, 4, i, param.numel(), on_cuda),
          scales_at(a, 5, i, param.numel(), on_cuda),
          param.numel(),
          adamw_step::corrections_of(a.options, a.steps[i], static_cast<std::uint32_t>(i)),
          param.dtype() == kBFloat16,
          grad.dtype() == kBFloat16};
}

const double* norm_of(const Arguments& a, bool on_cuda) {
  if (a.norm.is_none()) return nullptr;
  const TensorRef norm(kOp, "norm", a.norm);
  check_dtype(kOp, "norm", norm, {kFloat64});
  check_shape(kOp, "norm", norm, "[]", {});
  check_place("norm", norm, on_cuda);
  return norm.data_as<double>();
}

adamw_step::Step step_of(const Arguments& a, bool on_cuda) {
  check_lengths(a);
  const DataType moments = moments_of(a);
  adamw_step::Step step{{},
                        adamw_step::constants_of(a.options),
                        {norm_of(a, on_cuda), a.options.max_norm, a.options.grad_scale},
                        moments == kUInt8      ? adamw_step::Moments::kEightBit
                        : moments == kBFloat16 ? adamw_step::Moments::kBFloat16
                                               : adamw_step::Moments::kFloat32,
                        a.stochastic_rounding};
  const std::size_t count = a.lists[0].size();
  step.tensors.reserve(count);
  for (std::size_t i = 0; i < count; ++i)
    step.tensors.push_back(tensors_at(a, i, moments, on_cuda));
  return step;
}

void on_cpu(const Lists& lists, py::object norm, const std::vector<std::int64_t>& steps,
            const Numbers& numbers, bool stochastic_rounding, std::uint64_t seed, int threads) {
  check_threads(kOp, threads);
  const adamw_step::Step step =
      step_of(arguments_of(lists, norm, steps, numbers, stochastic_rounding, seed), false);
  const py::gil_scoped_release others_run;
  static const auto launch = CRUCIBLE_CPU(adamw_step, launch);
  launch(step, threads);
}

void on_cuda(const Lists& lists, py::object norm, const std::vector<std::int64_t>& steps,
             const Numbers& numbers, bool stochastic_rounding, std::uint64_t seed) {
  const adamw_step::Step step =
      step_of(arguments_of(lists, norm, steps, numbers, stochastic_rounding, seed), true);
  if (step.tensors.empty()) return;
  void* stream = TensorRef(kOp, "params", lists[0][0]).stream();
  const py::gil_scoped_release others_run;
  static const auto launch = CRUCIBLE_CUDA(adamw_step, launch);
  launch(step, stream);
}

}  // namespace

void bind_adamw_step(py::module_& m) {
  m.def("adamw_step_cpu", &on_cpu,
        "One step of AdamW in place; tensors on the CPU. `lists` are params, grads, exp_avgs, "
        "exp_avg_sqs and, or empty, the scales of both moments in 8 bits; `numbers` are lr, beta1, "
        "beta2, eps, weight_decay, grad_scale and max_norm; `norm` may be None.",
        py::arg("lists"), py::arg("norm").none(true), py::arg("steps"), py::arg("numbers"),
        py::arg("stochastic_rounding"), py::arg("seed"), py::arg("threads"));
  m.def("adamw_step_cuda", &on_cuda,
        "As adamw_step_cpu; tensors on the current CUDA device, on its current stream.");
}

}  // namespace crucible
