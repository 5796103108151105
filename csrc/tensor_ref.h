// A look at a tensor's memory, for the length of a call, through DLPack and without torch's
// headers.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "dtype.h"

namespace crucible {

struct Device {  // DLDevice of DLPack 1.x
  std::int32_t type;
  std::int32_t index;

  friend bool operator==(Device a, Device b) { return a.type == b.type && a.index == b.index; }
  friend bool operator!=(Device a, Device b) { return !(a == b); }
};

constexpr std::int32_t kCpu = 1;
constexpr std::int32_t kCuda = 2;

std::string show(Device device);

struct DLTensor {  // of DLPack 1.x
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null means contiguous before DLPack 1.2
  std::uint64_t byte_offset;
};

// Holds while the Python object does; make it with the GIL, use it without.
class TensorRef {
 public:
  // Anything with DLPack: by its C exchange API if its type has one (0.1 us for a torch.Tensor),
  // else by __dlpack__. Throws TypeError, naming op and argument, for other objects; conjugated,
  // sparse or otherwise undescribable tensors throw what their library says of them.
  TensorRef(const char* op, const char* argument, pybind11::handle object);

  std::int64_t ndim() const { return tensor_.ndim; }
  std::int64_t size(std::int64_t dim) const { return tensor_.shape[dim]; }
  std::int64_t stride(std::int64_t dim) const;
  std::int64_t numel() const;
  const std::int64_t* shape() const { return tensor_.shape; }
  bool is_contiguous() const;
  DataType dtype() const { return tensor_.dtype; }
  Device device() const { return tensor_.device; }
  bool on_cpu() const { return tensor_.device.type == kCpu; }
  bool on_cuda() const { return tensor_.device.type == kCuda; }
  void* data() const { return static_cast<char*>(tensor_.data) + tensor_.byte_offset; }
  template <typename T>
  T* data_as() const {
    return static_cast<T*>(data());
  }

  // The stream that its library works on (null on the CPU). Throws what the library says.
  void* stream() const;

 private:
  DLTensor tensor_;
  const struct ExchangeApi* api_ = nullptr;
  pybind11::object capsule_;  // of __dlpack__, where that was needed
};

// Whether tensors fit, as `f` says of those it looks at; not where a library does not describe one,
// such as a sparse one.
template <typename F>
bool they_fit(F&& f) {
  try {
    return f();
  } catch (const pybind11::error_already_set&) {
    return false;
  }
}

// "[3, 7]"
std::string show_shape(const TensorRef& tensor);

}  // namespace crucible
