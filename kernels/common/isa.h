// The instruction sets a kernel is compiled for, and which of them this machine runs.
#pragma once

// Every level; a kernel's CPU code is compiled once for each, in a namespace of that name.
// CRUCIBLE_BEST(crucible::my_op, launch) is the function of the best level: best of
// my_op::generic::launch, my_op::avx2::launch, and so on.
#if defined(__x86_64__)
#define CRUCIBLE_EVERY_ISA(X) X(generic) X(avx2) X(avx512) X(avx512_bf16)
#define CRUCIBLE_BEST(op, fn) \
  ::crucible::best_of({&op::generic::fn, &op::avx2::fn, &op::avx512::fn, &op::avx512_bf16::fn})
#else
#define CRUCIBLE_EVERY_ISA(X) X(generic)
#define CRUCIBLE_BEST(op, fn) ::crucible::best_of({&op::generic::fn})
#endif

namespace crucible {

enum class Isa { generic, avx2, avx512, avx512_bf16 };

// The best level this processor has, found once; CRUCIBLE_CPU_ISA names a lower one for tests.
// Throws std::invalid_argument for a name that is none or that the processor lacks.
Isa isa();

const char* name_of(Isa isa);

template <typename Fn, unsigned N>
Fn best_of(Fn const (&levels)[N]) {
  return levels[static_cast<unsigned>(isa())];
}

}  // namespace crucible
