// A view of a Python tensor: pointer, shape, strides, dtype, device. Owns nothing of the data.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "dlpack_abi.h"

namespace crucible {

enum class DType { float32, bfloat16, float64, int64, other };

class TensorRef {
 public:
  // Through the C exchange API of the object's type where it has one, looked up once a type; else
  // through its __dlpack__. Raises TypeError where the object offers neither.
  TensorRef(const char* op, const char* argument, pybind11::handle object);

  void* data() const { return static_cast<char*>(view_.data) + view_.byte_offset; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data());
  }
  int ndim() const { return view_.ndim; }
  std::int64_t size(int axis) const { return view_.shape[axis]; }
  std::int64_t stride(int axis) const;
  std::int64_t numel() const;
  bool is_contiguous() const;
  DType dtype() const;
  bool on_cpu() const { return view_.device.type == dlpack::kCpu; }
  bool on_cuda() const { return view_.device.type == dlpack::kCuda; }
  int device_index() const { return view_.device.id; }
  // The stream that the framework works on for this tensor's device, null on the CPU.
  void* stream() const;

  std::string show_shape() const;   // "[3, 7]"
  std::string show_dtype() const;   // "float32"
  std::string show_device() const;  // "cuda:0"

 private:
  dlpack::Tensor view_{};
  const dlpack::ExchangeApi* api_ = nullptr;
  pybind11::object capsule_;  // keeps a __dlpack__ export alive
};

}  // namespace crucible
