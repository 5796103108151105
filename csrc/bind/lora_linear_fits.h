// What the forward of lora_linear takes as it is, with no copy to make and nothing to refuse.
#pragma once

#include "lora_linear_matrices.h"

namespace crucible {
namespace py = pybind11;
namespace {

// Contiguous, in the weight's dtype or float32.
bool trained_fits(const TensorRef& tensor, DataType dtype,
                  std::initializer_list<std::int64_t> shape) {
  return tensor.on_cpu() && tensor.is_contiguous() &&
         (tensor.dtype() == dtype || tensor.dtype() == kFloat32) &&
         std::equal(shape.begin(), shape.end(), tensor.shape(), tensor.shape() + tensor.ndim());
}

// bias may be None.
bool lora_linear_fits(py::handle x, py::handle weight, py::handle lora_a, py::handle lora_b,
                      py::handle bias) {
  return they_fit([&] {
    const TensorRef frozen(kOp, "weight", weight), a(kOp, "lora_a", lora_a);
    if (frozen.ndim() != 2 || a.ndim() != 2) return false;
    const std::int64_t N = frozen.size(0), K = frozen.size(1), R = a.size(0);
    const DataType dtype = frozen.dtype();
    const TensorRef rows(kOp, "x", x);
    return (dtype == kFloat32 || dtype == kBFloat16) && rows.dtype() == dtype && R >= 1 &&
           rows.on_cpu() && rows.ndim() == 2 && rows.size(1) == K && rows.is_contiguous() &&
           trained_fits(frozen, dtype, {N, K}) && trained_fits(a, dtype, {R, K}) &&
           trained_fits(TensorRef(kOp, "lora_b", lora_b), dtype, {N, R}) &&
           (bias.is_none() || trained_fits(TensorRef(kOp, "bias", bias), dtype, {N}));
  });
}

}  // namespace
}  // namespace crucible
