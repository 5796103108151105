// Matrices of either dtype as the products want them: float32 blocks and panels.
#pragma once

#include "../common/gemm.h"
#include "launch.h"

namespace crucible::lora_linear::cpu {
namespace {

// M rows in equal blocks of about `most` at the most: with what belongs to them they stay in the
// second-level cache. Depends on M only, and so do all sums.
struct Blocks {
  Blocks(std::int64_t M, std::int64_t most)
      : M(M),
        rows(gemm::groups(gemm::groups(M, std::max<std::int64_t>(1, gemm::groups(M, most))),
                          gemm::kRows) *
             gemm::kRows),
        count(M == 0 ? 0 : gemm::groups(M, rows)) {}
  std::int64_t first(std::int64_t block) const { return block * rows; }
  std::int64_t size(std::int64_t block) const { return std::min(rows, M - first(block)); }
  std::int64_t M;
  std::int64_t rows;
  std::int64_t count;
};

// Calls f(typed pointer to the element), for the dtype that the matrix has.
template <typename F>
auto typed(const Matrix& m, std::int64_t row, std::int64_t column, F&& f) {
  const std::int64_t offset = row * m.stride + column;
  return m.bfloat16 ? f(static_cast<BFloat16*>(m.data) + offset)
                    : f(static_cast<float*>(m.data) + offset);
}

// A block of rows in float32: where it lies, or widened into `room` (rows * columns floats).
gemm::A block_of(const Matrix& m, std::int64_t first, std::int64_t rows, std::int64_t columns,
                 float* room) {
  if (!m.bfloat16) return {static_cast<const float*>(m.data) + first * m.stride, m.stride};
  for (std::int64_t i = 0; i < rows; ++i) {
    const auto* from = static_cast<const BFloat16*>(m.data) + (first + i) * m.stride;
    for (std::int64_t j = 0; j < columns; ++j) room[i * columns + j] = widen(from[j]);
  }
  return {room, columns};
}

// Where a block of the result is summed: in place, or in `room` until round_block().
gemm::C result_of(const Matrix& m, std::int64_t first, std::int64_t columns, float* room) {
  if (m.bfloat16) return {room, columns, gemm::kColumns, false};
  return {static_cast<float*>(m.data) + first * m.stride, m.stride, gemm::kColumns, false};
}

void round_block(const Matrix& m, std::int64_t first, std::int64_t rows, std::int64_t columns,
                 const float* room) {
  if (!m.bfloat16) return;
  for (std::int64_t i = 0; i < rows; ++i) {
    auto* to = static_cast<BFloat16*>(m.data) + (first + i) * m.stride;
    for (std::int64_t j = 0; j < columns; ++j) to[j] = round_to_nearest(room[i * columns + j]);
  }
}

// All panels of B = m, [depth][columns].
void pack_straight(const Matrix& m, std::int64_t depth, std::int64_t columns, float* panels) {
  gemm::each_panel(columns, [&](std::int64_t n, int count) {
    typed(m, 0, n,
          [&](auto* rows) { gemm::pack_rows(rows, m.stride, depth, count, panels + n * depth); });
  });
}

// All panels of B = m^T, with m [columns][depth].
void pack_turned(const Matrix& m, std::int64_t columns, std::int64_t depth, float* panels) {
  gemm::each_panel(columns, [&](std::int64_t n, int count) {
    typed(m, n, 0,
          [&](auto* rows) { gemm::pack_turned(rows, m.stride, depth, count, panels + n * depth); });
  });
}

gemm::B panel_at(const float* panels, std::int64_t column, std::int64_t depth, std::int64_t k) {
  return {panels + column * depth + k * gemm::kColumns, gemm::kColumns};
}

// The same of a packed weight, widened into `room` where it is bfloat16.
gemm::B weight_panel(const Panels& weight, std::int64_t column, std::int64_t depth, std::int64_t k,
                     std::int64_t count, float* room) {
  const std::int64_t offset = column * depth + k * gemm::kColumns;
  if (!weight.bfloat16) return {static_cast<const float*>(weight.data) + offset, gemm::kColumns};
  const auto* from = static_cast<const BFloat16*>(weight.data) + offset;
  for (std::int64_t i = 0; i < count * gemm::kColumns; ++i) room[i] = widen(from[i]);
  return {room, gemm::kColumns};
}

gemm::A from_column(const gemm::A& a, std::int64_t column) { return {a.data + column, a.stride}; }

gemm::C at_column(const gemm::C& c, std::int64_t column, int columns, bool accumulate) {
  return {c.data + column, c.stride, columns, accumulate};
}

}  // namespace
}  // namespace crucible::lora_linear::cpu
