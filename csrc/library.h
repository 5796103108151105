// The libraries of kernels, opened when first needed; kernels/common/entry.h is the other half.
#pragma once

#include <string>

namespace crucible {

class Library {
 public:
  // `name` is the file beside this extension, without its ending.
  explicit Library(std::string name);

  const std::string& name() const { return name_; }

  // The entry `op`, `function`. Throws std::runtime_error where the library lacks it.
  template <typename F>
  F* entry(const char* op, const char* function) const {
    return *static_cast<F* const*>(symbol(op, function));
  }

 private:
  const void* symbol(const char* op, const char* function) const;

  std::string name_;
  void* handle_;
};

// Kernels for this CPU: the best level it runs, or the one CRUCIBLE_CPU_ISA names. Throws
// std::runtime_error if that level is unknown or this CPU lacks it.
const Library& cpu_library();

// CUDA kernels. Throws std::runtime_error where this build has none.
const Library& cuda_library();

// Whether this build has CUDA kernels; opens nothing.
bool has_cuda_library();

}  // namespace crucible

// The function crucible::op::cpu::function (or cuda), looked up once:
//   static const auto launch = CRUCIBLE_CPU(adamw_step, launch);
#define CRUCIBLE_CPU(op, function) \
  crucible::cpu_library().entry<decltype(crucible::op::cpu::function)>(#op, #function)
#define CRUCIBLE_CUDA(op, function) \
  crucible::cuda_library().entry<decltype(crucible::op::cuda::function)>(#op, #function)
