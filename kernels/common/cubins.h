// The kernels that were compiled ahead of time: what compile_ahead.py writes and csrc/cubins.cpp
// reads.
#pragma once

#include <cstddef>

namespace crucible {

struct Cubin {
  const char* kernel;         // "lora_linear.multiply"
  int architecture;           // 80: compute capability 8.0
  const char* configuration;  // Configuration.key of configuration.py
  const char* arguments;      // Build.arguments of configuration.py, in order, a space between
  const char* symbol;         // of the kernel in its image
  unsigned threads;           // of a block
  unsigned shared;            // bytes of dynamic shared memory of a block
  std::size_t first;          // of its image among all
  std::size_t size;           // bytes
};

struct Cubins {
  const Cubin* cubins;
  std::size_t count;
  const unsigned char* images;
};

}  // namespace crucible
