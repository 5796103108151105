#include "library.h"

#include <dlfcn.h>
#include <sys/stat.h>

#include <cstdlib>
#include <stdexcept>
#include <utility>

namespace crucible {
namespace {

// Where this extension lies, whatever the process calls it.
std::string beside(const std::string& name) {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&cpu_library), &info) == 0) {
    throw std::runtime_error("crucible_kitchen: the loader does not know its own extension");
  }
  const std::string self = info.dli_fname;
  return self.substr(0, self.rfind('/') + 1) + name + ".so";
}

struct Level {
  const char* name;
  bool (*supported)();
  bool (*pays)();
};

bool always() { return true; }

#if defined(CRUCIBLE_X86_LEVELS)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif

// Best first; one that does not pay is for whoever asks for it by name.
constexpr Level kLevels[] = {
#if defined(CRUCIBLE_X86_LEVELS)
    // AMD's products of bfloat16, since Zen 4, are twice as fast as those of float32. Intel's are
    // half as fast (87 GFLOP/s against 176 on a core of Emerald Rapids).
    {"avx512bf16", [] { return has_avx512() && __builtin_cpu_supports("avx512bf16") != 0; },
     [] { return __builtin_cpu_is("amd") != 0; }},
    // Pairs of 16-bit integers twice as fast as float32 (377 GFLOP/s against 176 there).
    {"avx512vnni", [] { return has_avx512() && __builtin_cpu_supports("avx512vnni") != 0; },
     always},
    {"avx512", has_avx512, always},
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); },
     always},
#endif
    {"generic", always, always},
};

std::string choose_level() {
  const char* forced = std::getenv("CRUCIBLE_CPU_ISA");
  std::string known;
  for (const Level& level : kLevels) {
    if (!level.supported()) continue;
    const bool wanted =
        forced == nullptr || *forced == '\0' ? level.pays() : level.name == std::string(forced);
    if (wanted) return level.name;
    known += known.empty() ? level.name : std::string(", ") + level.name;
  }
  throw std::invalid_argument("CRUCIBLE_CPU_ISA must be one of " + known +
                              " on this processor, got " + forced);
}

}  // namespace

Library::Library(std::string name) : name_(std::move(name)) {
  handle_ = dlopen(beside(name_).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle_ == nullptr) {
    throw std::runtime_error("crucible_kitchen: could not open " + name_ + ": " + dlerror());
  }
}

const void* Library::symbol(const char* op, const char* function) const {
  const std::string symbol = std::string("crucible_") + op + "_" + function;
  const void* found = dlsym(handle_, symbol.c_str());
  if (found == nullptr) {
    throw std::runtime_error(std::string(op) + ": " + name_ + " has no " + function);
  }
  return found;
}

const Cubins* Library::cubins() const {
  return static_cast<const Cubins*>(dlsym(handle_, kCubinsSymbol));
}

const std::string& cpu_level() {
  static const std::string level = choose_level();
  return level;
}

const Library& cpu_library() {
  static const Library library("crucible_cpu_" + cpu_level());
  return library;
}

const Library& cuda_library() {
  static const Library library("crucible_cuda");
  return library;
}

std::string why_no_cuda() {
  struct stat found;
  if (stat(beside("crucible_cuda").c_str(), &found) != 0) return "this build has no CUDA kernels";
  try {
    cuda_library();
  } catch (const std::runtime_error& e) {
    return e.what();
  }
  return "";
}

}  // namespace crucible
