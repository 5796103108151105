#include "tensor_ref.h"

#include <unordered_map>
#include <utility>

namespace py = pybind11;

namespace crucible {

// DLPackExchangeAPI of DLPack 1.x: https://dmlc.github.io/dlpack/latest/c_api.html. The functions
// that are not called here are only places in the table.
struct ExchangeApi {
  std::uint32_t major;
  std::uint32_t minor;
  const ExchangeApi* previous;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object;
  void* managed_tensor_to_py_object;
  int (*dltensor_from_py_object)(void* object, DLTensor* out);
  int (*current_work_stream)(std::int32_t device_type, std::int32_t device, void** out);
};

namespace {

constexpr std::uint32_t kMajor = 1;

// What the capsule of __dlpack__(max_version=(1, 0)) points to.
struct ManagedTensor {
  std::uint32_t major;
  std::uint32_t minor;
  void* context;
  void (*deleter)(ManagedTensor*);
  std::uint64_t flags;
  DLTensor tensor;
};

const ExchangeApi* look_up(PyTypeObject* type) {
  const py::handle handle(reinterpret_cast<PyObject*>(type));
  const py::object capsule = py::getattr(handle, "__dlpack_c_exchange_api__", py::none());
  if (capsule.is_none()) return nullptr;
  const void* pointer = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
  if (pointer == nullptr) throw py::error_already_set();
  const auto* api = static_cast<const ExchangeApi*>(pointer);
  while (api != nullptr && api->major != kMajor) api = api->previous;
  return api != nullptr && api->dltensor_from_py_object != nullptr ? api : nullptr;
}

// Once a type. The GIL guards the table, which holds the types so that no address comes back as
// another type. Nearly all tensors have the type of the one before.
const ExchangeApi* api_of(PyTypeObject* type) {
  static auto& known = *new std::unordered_map<PyTypeObject*, const ExchangeApi*>();
  static std::pair<PyTypeObject*, const ExchangeApi*> last{};
  if (last.first == type) return last.second;
  auto found = known.find(type);
  if (found == known.end()) {
    found = known.emplace(type, look_up(type)).first;
    Py_INCREF(reinterpret_cast<PyObject*>(type));
  }
  last = *found;
  return last.second;
}

py::object export_capsule(const char* op, const char* argument, py::handle object) {
  if (!py::hasattr(object, "__dlpack__")) {
    throw py::type_error(std::string(op) + ": " + argument + " must be a tensor, got " +
                         Py_TYPE(object.ptr())->tp_name);
  }
  // A tensor that requires a gradient refuses to be exported; its memory is the same detached.
  const py::object plain = py::hasattr(object, "detach")
                               ? object.attr("detach")()
                               : py::reinterpret_borrow<py::object>(object);
  py::object capsule = plain.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(kMajor, 0));
  return capsule;
}

}  // namespace

TensorRef::TensorRef(const char* op, const char* argument, py::handle object)
    : api_(api_of(Py_TYPE(object.ptr()))) {
  if (api_ != nullptr) {
    if (api_->dltensor_from_py_object(object.ptr(), &tensor_) != 0) throw py::error_already_set();
    return;
  }
  capsule_ = export_capsule(op, argument, object);
  void* pointer = PyCapsule_GetPointer(capsule_.ptr(), "dltensor_versioned");
  if (pointer == nullptr) throw py::error_already_set();
  const auto* managed = static_cast<const ManagedTensor*>(pointer);
  if (managed->major != kMajor) throw py::type_error("DLPack 1 is needed to read this tensor");
  tensor_ = managed->tensor;
}

std::int64_t TensorRef::stride(std::int64_t dim) const {
  if (tensor_.strides != nullptr) return tensor_.strides[dim];
  std::int64_t stride = 1;
  for (std::int64_t d = ndim() - 1; d > dim; --d) stride *= size(d);
  return stride;
}

std::int64_t TensorRef::numel() const {
  std::int64_t numel = 1;
  for (std::int64_t d = 0; d < ndim(); ++d) numel *= size(d);
  return numel;
}

bool TensorRef::is_contiguous() const {
  std::int64_t dense = 1;
  for (std::int64_t d = ndim() - 1; d >= 0; --d) {
    if (size(d) != 1 && stride(d) != dense) return numel() == 0;
    dense *= size(d);
  }
  return true;
}

void* TensorRef::stream() const {
  void* stream = nullptr;
  if (api_ != nullptr && device().type != kCpu &&
      api_->current_work_stream(device().type, device().index, &stream) != 0) {
    throw py::error_already_set();
  }
  return stream;
}

std::string show(Device device) {
  switch (device.type) {
    case kCpu:
      return "cpu";
    case kCuda:
      return "cuda:" + std::to_string(device.index);
    default:
      return "DLPack device " + std::to_string(device.type) + ":" + std::to_string(device.index);
  }
}

std::string show_shape(const TensorRef& tensor) {
  std::string shown = "[";
  for (std::int64_t d = 0; d < tensor.ndim(); ++d) {
    shown += (d == 0 ? "" : ", ") + std::to_string(tensor.size(d));
  }
  return shown + "]";
}

}  // namespace crucible
