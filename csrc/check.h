// The checks of the doors. A message names the op, the argument, what was wanted and what came.
#pragma once

#include <initializer_list>
#include <string>

#include "tensor_ref.h"

namespace crucible {

[[noreturn]] inline void refuse_value(const char* op, const std::string& what) {
  throw pybind11::value_error(std::string(op) + ": " + what);
}

inline std::string show(std::initializer_list<std::int64_t> shape) {
  std::string shown = "[";
  for (const std::int64_t size : shape) {
    shown += (shown.size() > 1 ? ", " : "") + std::to_string(size);
  }
  return shown + "]";
}

// `letters` is the shape in the letters of the docs, such as "[R, K]".
inline void check_shape(const char* op, const char* argument, const TensorRef& tensor,
                        const char* letters, std::initializer_list<std::int64_t> wanted) {
  bool same = tensor.ndim() == static_cast<int>(wanted.size());
  int axis = 0;
  for (const std::int64_t size : wanted) same = same && tensor.size(axis++) == size;
  if (!same) {
    refuse_value(op, std::string(argument) + " must have shape " + letters + " = " + show(wanted) +
                         ", got " + tensor.show_shape() + " (" + tensor.show_dtype() + ")");
  }
}

inline void check_ndim(const char* op, const char* argument, const TensorRef& tensor,
                       const char* letters, int wanted) {
  if (tensor.ndim() != wanted) {
    refuse_value(op, std::string(argument) + " must have shape " + letters + ", got " +
                         tensor.show_shape() + " (" + tensor.show_dtype() + ")");
  }
}

inline const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return "float32";
    case DType::bfloat16:
      return "bfloat16";
    case DType::float64:
      return "float64";
    case DType::int64:
      return "int64";
    case DType::other:
      break;
  }
  return "other";
}

inline void check_dtype(const char* op, const char* argument, const TensorRef& tensor,
                        std::initializer_list<DType> wanted) {
  std::string known;
  for (const DType dtype : wanted) {
    if (tensor.dtype() == dtype) return;
    known += (known.empty() ? "" : " or ") + std::string(name_of(dtype));
  }
  throw pybind11::type_error(std::string(op) + ": " + argument + " must have dtype " + known +
                             ", got " + tensor.show_dtype());
}

inline void check_cpu(const char* op, const char* argument, const TensorRef& tensor) {
  if (!tensor.on_cpu()) {
    refuse_value(op, std::string(argument) + " must be on the CPU, got " + tensor.show_device());
  }
}

inline void check_contiguous(const char* op, const char* argument, const TensorRef& tensor) {
  if (!tensor.is_contiguous()) {
    refuse_value(op, std::string(argument) +
                         " must be contiguous, got strides that are not those of " +
                         tensor.show_shape());
  }
}

inline int check_threads(const char* op, int threads) {
  if (threads < 1) refuse_value(op, "threads must be at least 1, got " + std::to_string(threads));
  return threads;
}

}  // namespace crucible
