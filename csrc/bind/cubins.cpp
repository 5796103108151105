// The door to the kernels that were compiled ahead of time: any kernel, with the arguments that its
// host side hands over.
#include "../cubins.h"

#include <dlfcn.h>
#include <pybind11/stl.h>

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "../check.h"
#include "../driver.h"
#include "../library.h"

namespace crucible {
namespace py = pybind11;
namespace {

const char* triton_name(DataType dtype) {
  static const std::pair<DataType, const char*> names[] = {{kFloat32, "fp32"},  {kFloat16, "fp16"},
                                                           {kBFloat16, "bf16"}, {kFloat64, "fp64"},
                                                           {kInt64, "i64"},     {kInt32, "i32"}};
  for (const auto& [known, name] : names) {
    if (known == dtype) return name;
  }
  return "unknown";
}

// Arguments of one launch, and the tensor that says where it goes.
struct Call {
  std::vector<Argument> arguments;
  Device device{kCpu, 0};
  void* stream = nullptr;
};

// `started`: tensors must be on one CUDA device, and its current stream is looked up.
Call read(const char* kernel, const py::sequence& args, bool started) {
  Call call;
  call.arguments.reserve(args.size());
  bool first = true;
  for (const py::handle item : args) {
    Argument argument;
    if (PyLong_Check(item.ptr())) {
      argument.kind = Argument::Kind::kInteger;
      argument.integer = item.cast<std::int64_t>();
    } else if (PyFloat_Check(item.ptr())) {
      argument.kind = Argument::Kind::kReal;
      argument.real = item.cast<double>();
    } else if (!item.is_none()) {
      const TensorRef tensor(kernel, "an argument", item);
      argument.kind = Argument::Kind::kPointer;
      argument.dtype = triton_name(tensor.dtype());
      argument.pointer = tensor.data();
      if (started && first) {
        if (!tensor.on_cuda()) {
          refuse_value(kernel, "its tensors must be on CUDA, got " + show(tensor.device()));
        }
        call.device = tensor.device();
        call.stream = tensor.stream();
        first = false;
      }
      if (started) check_device(kernel, "every tensor", tensor, call.device);
    }
    call.arguments.push_back(std::move(argument));
  }
  if (started && first) refuse_value(kernel, "at least one argument must be a tensor");
  return call;
}

class BoundFamily {
 public:
  BoundFamily(const Cubins& cubins, std::string kernel, int architecture,
              const std::string& configuration)
      : kernel_(std::move(kernel)),
        images_(cubins.images),
        family_(cubins, kernel_, architecture, configuration) {}

  std::string select(const py::sequence& args) const {
    return family_.select(read(kernel_.c_str(), args, false).arguments).cubin->arguments;
  }

  void launch(const std::vector<unsigned>& grid, const py::sequence& args) const {
    const Call call = read(kernel_.c_str(), args, true);
    const Family::Member& member = family_.select(call.arguments);
    if (grid.empty() || grid.size() > 3)
      refuse_value(kernel_.c_str(), "grid must have 1 to 3 axes");
    std::array<unsigned, 3> axes{1, 1, 1};
    std::copy(grid.begin(), grid.end(), axes.begin());
    const py::gil_scoped_release others_run;
    launch_cubin(*member.cubin, images_ + member.cubin->first, call.device.index, axes, call.stream,
                 member.pattern.pack(call.arguments));
  }

 private:
  std::string kernel_;
  const unsigned char* images_;
  Family family_;
};

const Cubins& open_cubins(const std::string& path) {
  if (path.empty()) {
    const Cubins* built = cuda_library().cubins();
    if (built == nullptr) {
      throw std::runtime_error("this build has no kernels compiled ahead of time");
    }
    return *built;
  }
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw std::runtime_error(dlerror());
  const void* found = dlsym(handle, kCubinsSymbol);
  if (found == nullptr) throw std::runtime_error(path + " has no " + kCubinsSymbol);
  return *static_cast<const Cubins*>(found);
}

py::list listed(const Cubins& cubins) {
  py::list all;
  for (std::size_t i = 0; i < cubins.count; ++i) {
    const Cubin& c = cubins.cubins[i];
    const auto* image = reinterpret_cast<const char*>(cubins.images + c.first);
    all.append(py::dict(py::arg("kernel") = c.kernel, py::arg("architecture") = c.architecture,
                        py::arg("configuration") = c.configuration,
                        py::arg("arguments") = c.arguments, py::arg("symbol") = c.symbol,
                        py::arg("threads") = c.threads, py::arg("shared") = c.shared,
                        py::arg("image") = py::bytes(image, c.size)));
  }
  return all;
}

std::set<int> architectures(const Cubins& cubins) {
  std::set<int> found;
  for (std::size_t i = 0; i < cubins.count; ++i) found.insert(cubins.cubins[i].architecture);
  return found;
}

}  // namespace

void bind_cubins(py::module_& m) {
  py::class_<BoundFamily>(m, "CubinFamily", "The cubins of one kernel and configuration.")
      .def("select", &BoundFamily::select, py::arg("args"),
           "The types of the first cubin that takes the arguments; ValueError where none does.")
      .def("launch", &BoundFamily::launch, py::arg("grid"), py::arg("args"),
           "Start it on the current stream of its tensors' device.");
  py::class_<Cubins, std::unique_ptr<Cubins, py::nodelete>>(
      m, "Cubins", "Kernels compiled when this extension, or the library at path, was built.")
      .def(py::init([](const std::string& path) {
             return std::unique_ptr<Cubins, py::nodelete>(const_cast<Cubins*>(&open_cubins(path)));
           }),
           py::arg("path") = "")
      .def_property_readonly("architectures", &architectures)
      .def("listed", &listed, "All of them, with their images.")
      .def(
          "family",
          [](const Cubins& cubins, std::string kernel, int architecture,
             const std::string& configuration) {
            return BoundFamily(cubins, std::move(kernel), architecture, configuration);
          },
          py::arg("kernel"), py::arg("architecture"), py::arg("configuration"),
          "IndexError where there is none.");
}

}  // namespace crucible
