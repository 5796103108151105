// The forward of one layer with one update: what a sampled token makes many of, each small.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "lora_linear_pass.h"

namespace crucible {
namespace py = pybind11;
namespace {

// On the CPU, contiguous, in `dtype` or float32.
inline bool lies(const TensorRef& tensor, DataType dtype,
                 std::initializer_list<std::int64_t> shape) {
  return tensor.on_cpu() && tensor.is_contiguous() &&
         (tensor.dtype() == dtype || tensor.dtype() == kFloat32) &&
         std::equal(shape.begin(), shape.end(), tensor.shape(), tensor.shape() + tensor.ndim());
}

inline lora_linear::Matrix rows_of(const TensorRef& tensor, std::int64_t columns) {
  return {tensor.data(), columns, tensor.dtype() == kBFloat16};
}

// Whether a sample of the weight, in rows without gaps, is what the panels say. They are not where
// they are of a weight of another shape or dtype.
inline bool panels_hold(const TensorRef& weight, const TensorRef& panels, bool backward) {
  const lora_linear::Form form = form_of(panels);
  const DataType dtype = form == lora_linear::Form::kInt16 ? kBFloat16 : panels.dtype();
  const std::int64_t N = weight.size(0), K = weight.size(1);
  if (weight.dtype() != dtype || panels.numel() != numel_of(N, K, backward, form)) return false;
  static const auto run = CRUCIBLE_CPU(lora_linear, panels_hold);
  return run(matrix("weight", weight, "[N, K]", N, K), N, K, direction_of(backward),
             {panels.data(), form});
}

struct Alone {
  py::handle x, weight, lora_a, lora_b, bias;  // bias may be None
  double scale;
  py::handle panels;
  bool look;  // whether the panels hold the weight, which else is known
  py::handle y;
};

// The pass, where it takes the tensors as they are; nothing where the panels are another weight's,
// or one would have to be copied or refused.
inline std::optional<lora_linear::Pass> pass_of(const Alone& given, float* xa, std::int64_t room) {
  const TensorRef frozen(kOp, "weight", given.weight), a(kOp, "lora_a", given.lora_a);
  const TensorRef x(kOp, "x", given.x), b(kOp, "lora_b", given.lora_b), y(kOp, "y", given.y);
  if (frozen.ndim() != 2 || a.ndim() != 2 || x.ndim() != 2) return {};
  const DataType dtype = frozen.dtype();
  const std::int64_t M = x.size(0), N = frozen.size(0), K = frozen.size(1), R = a.size(0);
  if (R < 1 || M * R > room || !(dtype == kFloat32 || dtype == kBFloat16)) return {};
  if (x.dtype() != dtype || y.dtype() != dtype) return {};
  if (!lies(x, dtype, {M, K}) || !lies(frozen, dtype, {N, K}) || !lies(a, dtype, {R, K}) ||
      !lies(b, dtype, {N, R}) || !lies(y, dtype, {M, N})) {
    return {};
  }
  lora_linear::Matrix bias{nullptr, 0, false};
  if (!given.bias.is_none()) {
    const TensorRef tensor(kOp, "bias", given.bias);
    if (!lies(tensor, dtype, {N})) return {};
    bias = rows_of(tensor, N);
  }
  if (given.look && !panels_hold(frozen, TensorRef(kOp, "panels", given.panels), false)) return {};
  const lora_linear::Matrix none{nullptr, 0, false};
  lora_linear::Pass pass{M, K, rows_of(x, K), none, {}};
  pass.linears.push_back({N, panels_of(given.panels, N, K, false), bias, rows_of(y, N), {}});
  pass.linears.back().updates.push_back({0,
                                         M,
                                         R,
                                         static_cast<float>(given.scale),
                                         {0, 0},
                                         rows_of(a, K),
                                         rows_of(b, R),
                                         xa,
                                         none,
                                         none});
  return pass;
}

// Whether it could write y.
inline bool forward_alone(const Alone& given, int threads) {
  constexpr std::int64_t kRoom = 4096;  // more is no small call
  float xa[kRoom];
  check_threads(kOp, threads);
  std::optional<lora_linear::Pass> pass;
  if (!they_fit([&] { return (pass = pass_of(given, xa, kRoom)).has_value(); })) return false;
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(lora_linear, forward);
  run(*pass, threads);
  return true;
}

}  // namespace
}  // namespace crucible
