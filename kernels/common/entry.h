// Kernels are compiled into libraries of their own, one for each instruction set and one for CUDA,
// which the door opens when it needs them. An entry is a function that such a library offers:
//
//   CRUCIBLE_ENTRY(adamw_step, launch)      at the end of cpu.cpp or cuda.cu, outside any namespace
//
// where `launch` can be found in crucible::adamw_step::cpu (or cuda); csrc/library.h has the other
// half.
#pragma once

#if defined(__CUDACC__)
#define CRUCIBLE_BACKEND cuda
#else
#define CRUCIBLE_BACKEND cpu
#endif

#define CRUCIBLE_ENTRY(op, function) CRUCIBLE_ENTRY_OF(op, CRUCIBLE_BACKEND, function)
#define CRUCIBLE_ENTRY_OF(op, backend, function)                                           \
  extern "C" {                                                                             \
  extern __attribute__((visibility("default"))) decltype(&crucible::op::backend::function) \
      const crucible_##op##_##function;                                                    \
  decltype(&crucible::op::backend::function) const crucible_##op##_##function =            \
      &crucible::op::backend::function;                                                    \
  }
