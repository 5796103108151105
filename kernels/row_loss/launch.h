// The loss of each row of a few numbers, and its slopes, in one pass.
#pragma once

#include <cstdint>

#include "formulas.h"

namespace crucible::row_loss {

constexpr int kColumns = 7;  // first, second and the five constants of a Row

enum class Type : std::int32_t { kNone, kFloat32, kFloat64, kBFloat16, kBool };

// One number a row; of type kNone: zeros.
struct Column {
  const void* data;
  std::int64_t stride;  // in elements
  Type type;
};

struct Call {
  Column columns[kColumns];
  Terms terms;
  Settings settings;
  std::int64_t rows;
  void* loss;  // [rows], dense
  Type loss_type;
  void* slopes;  // [2, rows], dense: by first and by second; [1, rows] without a second
  Type slopes_type;
};

namespace cpu {
// Rows do not interact: the same bits for any number of threads.
void launch(const Call& call, int threads);
}  // namespace cpu

namespace cuda {
// On `stream` (a cudaStream_t) of the current device; does not wait.
void launch(const Call& call, void* stream);
}  // namespace cuda

}  // namespace crucible::row_loss
