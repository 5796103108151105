// Checks of a door. Each throws, as `op: argument must be WANTED, got GOT`, ValueError for a wrong
// value and TypeError for a wrong dtype.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "dtype.h"
#include "tensor_ref.h"

namespace crucible {

namespace check_internal {

inline std::string must(const char* op, const char* argument) {
  return std::string(op) + ": " + argument + " must ";
}

}  // namespace check_internal

[[noreturn]] inline void refuse_value(const char* op, const std::string& what) {
  throw pybind11::value_error(std::string(op) + ": " + what);
}

inline void check_threads(const char* op, int threads) {
  if (threads < 1) refuse_value(op, "threads must be at least 1, got " + std::to_string(threads));
}

// ValueError: lora_linear: lora_a must have shape [R, K] = [3, 8], got [3, 7] (torch.float32)
inline void check_shape(const char* op, const char* argument, const TensorRef& tensor,
                        const char* letters, std::initializer_list<std::int64_t> wanted) {
  if (std::equal(wanted.begin(), wanted.end(), tensor.shape(), tensor.shape() + tensor.ndim())) {
    return;
  }
  std::string shown;
  for (const std::int64_t size : wanted) {
    shown += (shown.empty() ? "" : ", ") + std::to_string(size);
  }
  throw pybind11::value_error(check_internal::must(op, argument) + "have shape " + letters +
                              " = [" + shown + "], got " + show_shape(tensor) + " (" +
                              show(tensor.dtype()) + ")");
}

// ValueError: lora_linear: x must have shape [M, K], got [3] (torch.float32)
inline void check_ndim(const char* op, const char* argument, const TensorRef& tensor,
                       const char* letters, std::int64_t ndim) {
  if (tensor.ndim() == ndim) return;
  throw pybind11::value_error(check_internal::must(op, argument) + "have shape " + letters +
                              ", got " + show_shape(tensor) + " (" + show(tensor.dtype()) + ")");
}

// TypeError: lora_linear: x must be torch.float32 or torch.bfloat16, got torch.int64
inline void check_dtype(const char* op, const char* argument, const TensorRef& tensor,
                        std::initializer_list<DataType> wanted) {
  if (std::find(wanted.begin(), wanted.end(), tensor.dtype()) != wanted.end()) return;
  std::string shown;
  for (const DataType& dtype : wanted) {
    if (&dtype != wanted.begin()) shown += &dtype + 1 == wanted.end() ? " or " : ", ";
    shown += show(dtype);
  }
  throw pybind11::type_error(check_internal::must(op, argument) + "be " + shown + ", got " +
                             show(tensor.dtype()));
}

// ValueError: lora_linear: weight must be on cpu, got cuda:0
inline void check_device(const char* op, const char* argument, const TensorRef& tensor,
                         Device wanted) {
  if (tensor.device() == wanted) return;
  throw pybind11::value_error(check_internal::must(op, argument) + "be on " + show(wanted) +
                              ", got " + show(tensor.device()));
}

inline void check_on_cpu(const char* op, const char* argument, const TensorRef& tensor) {
  check_device(op, argument, tensor, {kCpu, 0});
}

// ValueError: lora_linear: y must be contiguous, got strides [1, 3] for shape [3, 7]
inline void check_contiguous(const char* op, const char* argument, const TensorRef& tensor) {
  if (tensor.is_contiguous()) return;
  std::string strides = "[";
  for (std::int64_t d = 0; d < tensor.ndim(); ++d) {
    strides += (d == 0 ? "" : ", ") + std::to_string(tensor.stride(d));
  }
  throw pybind11::value_error(check_internal::must(op, argument) + "be contiguous, got strides " +
                              strides + "] for shape " + show_shape(tensor));
}

}  // namespace crucible
