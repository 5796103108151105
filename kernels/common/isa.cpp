#include "isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace crucible {
namespace {

Isa best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) return Isa::avx512_bf16;
  if (avx512) return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::generic;
}

Isa chosen() {
  const Isa limit = best();
  const char* wanted = std::getenv("CRUCIBLE_CPU_ISA");
  if (wanted == nullptr || *wanted == '\0') return limit;
  std::string known;
  for (const Isa level : {Isa::generic, Isa::avx2, Isa::avx512, Isa::avx512_bf16}) {
    if (level > limit) break;
    if (wanted == std::string(name_of(level))) return level;
    known += known.empty() ? name_of(level) : std::string(", ") + name_of(level);
  }
  throw std::invalid_argument("CRUCIBLE_CPU_ISA must be one of " + known +
                              " on this processor, got " + wanted);
}

}  // namespace

Isa isa() {
  static const Isa level = chosen();
  return level;
}

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_bf16:
      return "avx512_bf16";
    case Isa::generic:
      break;
  }
  return "generic";
}

}  // namespace crucible
