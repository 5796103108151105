#include "tensor_ref.h"

#include <unordered_map>

namespace crucible {
namespace py = pybind11;
namespace {

constexpr std::uint32_t kMajor = 1;

const dlpack::ExchangeApi* find_api(PyTypeObject* type) {
  py::handle handle(reinterpret_cast<PyObject*>(type));
  if (!py::hasattr(handle, "__dlpack_c_exchange_api__")) return nullptr;
  const py::object capsule = handle.attr("__dlpack_c_exchange_api__");
  auto* header = static_cast<dlpack::ExchangeHeader*>(
      PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (header == nullptr) throw py::error_already_set();
  while (header != nullptr && header->version.major != kMajor) header = header->previous;
  return reinterpret_cast<const dlpack::ExchangeApi*>(header);
}

// One look-up a type. The map holds a reference to the type, so an address is never used twice;
// it is guarded by the GIL and never freed, since Python may be gone when it would be.
const dlpack::ExchangeApi* api_of(PyTypeObject* type) {
  static auto& known = *new std::unordered_map<PyTypeObject*, const dlpack::ExchangeApi*>();
  const auto found = known.find(type);
  if (found != known.end()) return found->second;
  const dlpack::ExchangeApi* api = find_api(type);
  Py_INCREF(type);
  known.emplace(type, api);
  return api;
}

}  // namespace

TensorRef::TensorRef(const char* op, const char* argument, py::handle object)
    : api_(api_of(Py_TYPE(object.ptr()))) {
  if (api_ != nullptr) {
    if (api_->dltensor_from_py_object_no_sync(object.ptr(), &view_) != 0) {
      throw py::error_already_set();
    }
    return;
  }
  if (!py::hasattr(object, "__dlpack__")) {
    throw py::type_error(std::string(op) + ": " + argument + " must be a tensor, got " +
                         Py_TYPE(object.ptr())->tp_name);
  }
  const py::object source = py::hasattr(object, "detach")
                                ? object.attr("detach")()
                                : py::reinterpret_borrow<py::object>(object);
  capsule_ = source.attr("__dlpack__")();
  auto* managed =
      static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule_.ptr(), "dltensor"));
  if (managed == nullptr) throw py::error_already_set();
  view_ = managed->tensor;
}

std::int64_t TensorRef::stride(int axis) const {
  if (view_.strides != nullptr) return view_.strides[axis];
  std::int64_t stride = 1;
  for (int i = view_.ndim - 1; i > axis; --i) stride *= view_.shape[i];
  return stride;
}

std::int64_t TensorRef::numel() const {
  std::int64_t numel = 1;
  for (int i = 0; i < view_.ndim; ++i) numel *= view_.shape[i];
  return numel;
}

bool TensorRef::is_contiguous() const {
  std::int64_t expected = 1;
  if (numel() == 0) return true;
  for (int i = view_.ndim - 1; i >= 0; --i) {
    if (view_.shape[i] != 1 && stride(i) != expected) return false;
    expected *= view_.shape[i];
  }
  return true;
}

DType TensorRef::dtype() const {
  const dlpack::DataType& t = view_.dtype;
  if (t.lanes != 1) return DType::other;
  if (t.code == dlpack::kFloat && t.bits == 32) return DType::float32;
  if (t.code == dlpack::kBfloat && t.bits == 16) return DType::bfloat16;
  if (t.code == dlpack::kFloat && t.bits == 64) return DType::float64;
  if (t.code == dlpack::kInt && t.bits == 64) return DType::int64;
  return DType::other;
}

void* TensorRef::stream() const {
  if (!on_cuda() || api_ == nullptr) return nullptr;
  void* stream = nullptr;
  if (api_->current_work_stream(view_.device.type, view_.device.id, &stream) != 0) {
    throw py::error_already_set();
  }
  return stream;
}

std::string TensorRef::show_shape() const {
  std::string shown = "[";
  for (int i = 0; i < view_.ndim; ++i) shown += (i ? ", " : "") + std::to_string(view_.shape[i]);
  return shown + "]";
}

std::string TensorRef::show_dtype() const {
  const char* kind = "opaque";
  switch (view_.dtype.code) {
    case dlpack::kInt:
      kind = "int";
      break;
    case dlpack::kUInt:
      kind = "uint";
      break;
    case dlpack::kFloat:
      kind = "float";
      break;
    case dlpack::kBfloat:
      kind = "bfloat";
      break;
    case dlpack::kBool:
      return "bool";
    default:
      break;
  }
  return kind + std::to_string(view_.dtype.bits);
}

std::string TensorRef::show_device() const {
  if (on_cpu()) return "cpu";
  if (on_cuda()) return "cuda:" + std::to_string(view_.device.id);
  return "device type " + std::to_string(view_.device.type);
}

}  // namespace crucible
