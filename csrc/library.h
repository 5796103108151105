// The libraries of kernels, opened when first needed; kernels/common/entry.h is the other half.
#pragma once

#include <string>

#include "../kernels/common/cubins.h"

namespace crucible {

// Where a library that has cubins keeps its `Cubins`.
constexpr const char* kCubinsSymbol = "crucible_cubins";

class Library {
 public:
  // `name` is the file beside this extension, without its ending.
  explicit Library(std::string name);

  // The entry `op`, `function`. Throws std::runtime_error where the library lacks it.
  template <typename F>
  F* entry(const char* op, const char* function) const {
    return *static_cast<F* const*>(symbol(op, function));
  }

  // Its kernels compiled ahead of time, or null.
  const Cubins* cubins() const;

 private:
  const void* symbol(const char* op, const char* function) const;

  std::string name_;
  void* handle_;
};

// The best instruction set that this CPU runs, or the one CRUCIBLE_CPU_ISA names. Throws
// std::invalid_argument if that is none of ours or this CPU lacks it.
const std::string& cpu_level();

// Kernels of that level.
const Library& cpu_library();

// CUDA kernels. Throws std::runtime_error where this build has none, or they cannot be opened.
const Library& cuda_library();

// Why `cuda_library` would throw, or an empty string.
std::string why_no_cuda();

}  // namespace crucible

// The function crucible::op::cpu::function (or cuda), looked up once:
//   static const auto launch = CRUCIBLE_CPU(adamw_step, launch);
#define CRUCIBLE_CPU(op, function) \
  crucible::cpu_library().entry<decltype(crucible::op::cpu::function)>(#op, #function)
#define CRUCIBLE_CUDA(op, function) \
  crucible::cuda_library().entry<decltype(crucible::op::cuda::function)>(#op, #function)
