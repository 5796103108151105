// Causal attention over sequences laid end to end; letters as in README.md.
#pragma once

#include <cstdint>

namespace crucible::varlen_attention {

struct Size {
  std::int64_t T;  // tokens
  std::int64_t A;  // heads of the queries
  std::int64_t G;  // heads of the keys and values; a divisor of A
  std::int64_t D;  // elements of a head
};

// Segment i holds the tokens [bounds[i], bounds[i + 1]) and continues segment parents[i] < i, or
// none where that is -1; without parents none continues another.
struct Segments {
  std::int64_t count;
  const std::int64_t* bounds;
  const std::int64_t* parents;
};

// Arrays are contiguous, and share a dtype where none is given.
struct Inputs {
  Size size;
  Segments segments;
  float scale;          // of the scores
  std::int64_t window;  // tokens that a query sees, itself included; 0 for all
  bool bfloat16;        // else float32
  const void* q;        // [T, A, D]
  const void* k;        // [T, G, D]
  const void* v;
};

struct Forward {
  Inputs in;
  void* out;   // [T, A, D]
  float* lse;  // [T, A], log of the sum of the exponentials of a query's scores
};

struct Backward {
  Inputs in;
  const void* dout;
  const void* out;
  const float* lse;
  void* dq;
  void* dk;
  void* dv;
};

namespace cpu {
// The same bits for any number of threads.
void forward(const Forward& f, int threads);
void backward(const Backward& b, int threads);
}  // namespace cpu

}  // namespace crucible::varlen_attention
