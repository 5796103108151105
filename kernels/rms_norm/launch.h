// Rows divided by their root mean square, times a weight; letters as in README.md.
#pragma once

#include <cstdint>

namespace crucible::rms_norm {

struct Size {
  std::int64_t M;  // rows
  std::int64_t N;  // elements a row
};

// Contiguous; null where it is not wanted.
struct Array {
  void* data;
  bool bfloat16;  // else float32
};

// x, y, dy and dx are [M, N] and share a dtype; weight and dweight [N] share one.
struct Forward {
  Size size;
  float eps;
  Array x;
  Array weight;
  Array y;
  float* rstd;  // [M]; null where it is not wanted
};

struct Backward {
  Size size;
  Array dy;
  Array x;
  Array weight;
  const float* rstd;  // [M]
  Array dx;
  Array dweight;
};

namespace cpu {
// The same bits for any number of threads.
void forward(const Forward& f, int threads);
void backward(const Backward& b, int threads);
}  // namespace cpu

}  // namespace crucible::rms_norm
