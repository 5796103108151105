#include "cuda_library.h"

#include <stdexcept>

#if defined(__linux__)
#include <dlfcn.h>
#endif

namespace crucible {
namespace {

struct Opened {
  const CudaLaunchers* launchers = nullptr;
  std::string reason;
};

Opened open_beside_me() {
#if defined(__linux__)
  Dl_info me{};
  if (dladdr(reinterpret_cast<void*>(&open_beside_me), &me) == 0) return {nullptr, "no own path"};
  const std::string own = me.dli_fname;
  const std::string path = own.substr(0, own.rfind('/') + 1) + "libcrucible_cuda.so";
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return {nullptr, std::string("the wheel has no CUDA half that opens here: ") + dlerror()};
  }
  using Entry = const CudaLaunchers* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(library, "crucible_cuda_launchers"));
  if (entry == nullptr) return {nullptr, std::string("not our CUDA library: ") + dlerror()};
  return {entry(), ""};
#else
  return {nullptr, "the CUDA half is built on Linux only"};
#endif
}

const Opened& opened() {
  static const Opened result = open_beside_me();
  return result;
}

}  // namespace

const CudaLaunchers& cuda_launchers() {
  if (opened().launchers == nullptr) throw std::runtime_error(opened().reason);
  return *opened().launchers;
}

std::string why_no_cuda() { return opened().reason; }

}  // namespace crucible
