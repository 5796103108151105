// Frozen linear layers plus their low-rank updates, on the CPU; letters as in README.md.
#pragma once

#include <cstdint>
#include <vector>

namespace crucible::lora_linear {

// Rows side by side, `stride` elements apart; null where it is not given or not wanted.
struct Matrix {
  void* data;
  std::int64_t stride;
  bool bfloat16;  // else float32
};

// The frozen weight as one direction reads it; see pack().
enum class Form {
  kFloat32,   // as the weight is
  kBFloat16,  // the same
  kInt16,     // integers of 16 bits with scales, of a weight in bfloat16 (../common/int16.h)
};
struct Panels {
  void* data;
  Form form;
};

enum class Direction { kForward, kBackward };

// What an update does not see of x: the elements whose hash (../common/hash.h) is below
// `threshold`, at their row among the update's own and their column. 0 drops nothing.
struct Drop {
  std::uint32_t threshold;
  std::uint64_t seed;
};

// The low-rank update of consecutive rows of x. `scale` is divided by the share that is kept.
struct Update {
  std::int64_t first;
  std::int64_t rows;
  std::int64_t R;  // rank
  float scale;
  Drop drop;
  Matrix lora_a_RK;
  Matrix lora_b_NR;
  float* xa;     // x A^T of what it sees, unscaled, [rows, R]
  Matrix da_RK;  // backward only
  Matrix db_NR;
};

// A frozen layer and its updates, which cover all rows of x in order; forward: or none.
struct Linear {
  std::int64_t N;  // out features
  Panels weight;   // packed for the direction; null where dx is not wanted
  Matrix bias_N;
  Matrix y_MN;  // backward: dy
  std::vector<Update> updates;
};

// Layers that read the same x, the rows of all split in the same way.
struct Pass {
  std::int64_t M;  // rows of x
  std::int64_t K;  // in features
  Matrix x_MK;     // backward: null if no dA is wanted
  Matrix dx_MK;    // backward only: the sum over the layers
  std::vector<Linear> linears;
};

namespace cpu {

// Whether this level of instructions multiplies Form::kInt16.
bool multiplies_int16();
// Panels of a weight: panels_numel() elements of their form, good for this level only.
std::int64_t panels_numel(std::int64_t N, std::int64_t K, Direction direction, Form form);
void pack(const Matrix& weight_NK, std::int64_t N, std::int64_t K, Direction direction,
          const Panels& panels, int threads);
// Whether the panels still hold the weight: compares a sample spread over it, as exactly as they
// can hold it.
bool panels_hold(const Matrix& weight_NK, std::int64_t N, std::int64_t K, Direction direction,
                 const Panels& panels);

// The same bits for any number of threads, and for an update whatever stands beside it.
void forward(const Pass& pass, int threads);
void backward(const Pass& pass, int threads);

}  // namespace cpu
}  // namespace crucible::lora_linear
