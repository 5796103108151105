// A frozen linear layer plus its low-rank update, on the CPU; letters as in README.md.
#pragma once

#include <cstdint>

namespace crucible::lora_linear {

struct Size {
  std::int64_t M;  // rows of x
  std::int64_t N;  // out features
  std::int64_t K;  // in features
  std::int64_t R;  // rank
};

// Rows side by side, `stride` elements apart; null where it is not given or not wanted.
struct Matrix {
  void* data;
  std::int64_t stride;
  bool bfloat16;  // else float32
};

// The frozen weight as one direction reads it, in its own dtype; see pack().
struct Panels {
  const void* data;
  bool bfloat16;  // else float32
};

enum class Direction { kForward, kBackward };

struct Forward {
  Size size;
  float scale;
  Matrix x_MK;
  Panels weight;  // packed for kForward
  Matrix lora_a_RK;
  Matrix lora_b_NR;
  Matrix bias_N;
  Matrix y_MN;
  float* xa_MR;  // x A^T, unscaled
};

struct Backward {
  Size size;
  float scale;
  Matrix dy_MN;
  Matrix x_MK;    // null if dA is
  Panels weight;  // packed for kBackward; null if dx is
  Matrix lora_a_RK;
  Matrix lora_b_NR;
  const float* xa_MR;
  Matrix dx_MK;
  Matrix da_RK;
  Matrix db_NR;
};

namespace cpu {

// Panels of a weight: panels_numel() elements of its dtype, good for this level of instructions
// only.
std::int64_t panels_numel(std::int64_t N, std::int64_t K, Direction direction);
void pack(const Matrix& weight_NK, std::int64_t N, std::int64_t K, Direction direction,
          void* panels, int threads);
// Whether the panels still hold the weight: compares a sample spread over it, bit for bit.
bool panels_hold(const Matrix& weight_NK, std::int64_t N, std::int64_t K, Direction direction,
                 const void* panels);

// The same bits for any number of threads.
void forward(const Forward& f, int threads);
void backward(const Backward& b, int threads);

}  // namespace cpu
}  // namespace crucible::lora_linear
