// Matrices as the door of lora_linear takes them: checked, and as its kernels see them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "../../kernels/lora_linear/launch.h"
#include "../check.h"

namespace crucible {
namespace py = pybind11;
namespace {

constexpr const char* kOp = "lora_linear";

inline void check_no_gaps(const char* argument, const TensorRef& tensor, std::int64_t rows,
                          std::int64_t columns) {
  const std::int64_t stride = tensor.stride(tensor.ndim() - 1);
  if (columns <= 1 || rows == 0 || stride == 1) return;
  refuse_value(kOp, std::string(argument) + " must have rows without gaps, got stride " +
                        std::to_string(stride) + " between elements");
}

// A float32 or bfloat16 matrix on the CPU whose rows have no gaps.
inline lora_linear::Matrix matrix(const char* argument, const TensorRef& tensor,
                                  const char* letters, std::int64_t rows, std::int64_t columns) {
  check_on_cpu(kOp, argument, tensor);
  check_dtype(kOp, argument, tensor, {kFloat32, kBFloat16});
  check_shape(kOp, argument, tensor, letters, {rows, columns});
  check_no_gaps(argument, tensor, rows, columns);
  return {tensor.data(), tensor.stride(0), tensor.dtype() == kBFloat16};
}

inline lora_linear::Matrix optional_matrix(const char* argument, py::handle object,
                                           const char* letters, std::int64_t rows,
                                           std::int64_t columns) {
  if (object.is_none()) return {nullptr, 0, false};
  return matrix(argument, TensorRef(kOp, argument, object), letters, rows, columns);
}

inline lora_linear::Matrix vector(const char* argument, py::handle object, const char* letters,
                                  std::int64_t size) {
  if (object.is_none()) return {nullptr, 0, false};
  const TensorRef tensor(kOp, argument, object);
  check_on_cpu(kOp, argument, tensor);
  check_dtype(kOp, argument, tensor, {kFloat32, kBFloat16});
  check_shape(kOp, argument, tensor, letters, {size});
  check_contiguous(kOp, argument, tensor);
  return {tensor.data(), size, tensor.dtype() == kBFloat16};
}

inline TensorRef of_two_dimensions(const char* argument, py::handle object, const char* letters) {
  TensorRef tensor(kOp, argument, object);
  check_ndim(kOp, argument, tensor, letters, 2);
  return tensor;
}

inline void check_length(const char* name, const py::sequence& given, std::size_t wanted) {
  if (py::len(given) == wanted) return;
  refuse_value(kOp, std::string(name) + " must have " + std::to_string(wanted) + " entries, got " +
                        std::to_string(py::len(given)));
}

// A matrix of each update: a tensor each, or one for each layer that holds those of its updates,
// [updates, rows, columns]. With `optional`, None where there is none.
class UpdateMatrices {
 public:
  UpdateMatrices(const char* argument, const char* letters, const char* letters_of_all,
                 const py::sequence& given, std::size_t layers, std::size_t updates,
                 bool optional = false)
      : argument_(argument), letters_(letters), letters_of_all_(letters_of_all), updates_(updates) {
    tensors_.reserve(py::len(given));
    for (const py::handle object : given) {
      tensors_.emplace_back();
      if (!optional || !object.is_none()) tensors_.back().emplace(kOp, argument, object);
    }
    together_ = !tensors_.empty() && tensors_.front() && tensors_.front()->ndim() == 3;
    check_length(argument, given, together_ ? layers : layers * updates);
    for (const std::optional<TensorRef>& tensor : tensors_) {
      if (tensor) check_ndim(kOp, argument, *tensor, together_ ? letters_of_all : letters, dims());
    }
  }

  bool has(std::size_t layer, std::size_t update) const {
    return tensor(layer, update).has_value();
  }
  std::int64_t rows(std::size_t layer, std::size_t update) const {
    return tensor(layer, update)->size(dims() - 2);
  }
  lora_linear::Matrix of(std::size_t layer, std::size_t update, std::int64_t rows,
                         std::int64_t columns) const {
    if (!has(layer, update)) return {nullptr, 0, false};
    const TensorRef& all = *tensor(layer, update);
    if (!together_) return matrix(argument_, all, letters_, rows, columns);
    check_on_cpu(kOp, argument_, all);
    check_dtype(kOp, argument_, all, {kFloat32, kBFloat16});
    check_shape(kOp, argument_, all, letters_of_all_,
                {static_cast<std::int64_t>(updates_), rows, columns});
    check_no_gaps(argument_, all, rows, columns);
    const bool narrow = all.dtype() == kBFloat16;
    const std::int64_t offset = static_cast<std::int64_t>(update) * all.stride(0);
    return {all.data_as<char>() + offset * (narrow ? 2 : 4), all.stride(1), narrow};
  }

 private:
  int dims() const { return together_ ? 3 : 2; }
  const std::optional<TensorRef>& tensor(std::size_t layer, std::size_t update) const {
    return tensors_[together_ ? layer : layer * updates_ + update];
  }

  const char* argument_;
  const char* letters_;
  const char* letters_of_all_;
  std::size_t updates_;  // of a layer
  std::vector<std::optional<TensorRef>> tensors_;
  bool together_;
};

}  // namespace
}  // namespace crucible
