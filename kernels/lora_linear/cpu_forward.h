// y = x W^T + s (x A^T) B^T + b, block of rows by block of rows. x A^T is ready before the last
// slice of x W^T, which then takes it along as R more columns of the reduction.
#pragma once

#include "../common/threads.h"
#include "cpu_matrix.h"

namespace crucible::lora_linear::cpu {
namespace {

// Rows of a block.
constexpr std::int64_t kForwardRows = 66;

class ForwardPass {
 public:
  explicit ForwardPass(const Forward& f) : f_(f), blocks_(f.size.M, kForwardRows) {}

  void run(int threads) {
    const auto [M, N, K, R] = f_.size;
    static thread_local gemm::Scratch scratch;
    const std::int64_t a_numel = gemm::panels_numel(R, K);
    a_panels_ = scratch.take(a_numel + gemm::panels_numel(N, R));
    b_panels_ = a_panels_ + a_numel;
    pack_turned(f_.lora_a_RK, R, K, a_panels_);
    pack_turned(f_.lora_b_NR, N, R, b_panels_);
    // Few rows keep many threads busy only if columns are shared out too; no sum crosses columns.
    const std::int64_t wanted = gemm::groups(4 * threads, std::max<std::int64_t>(1, blocks_.count));
    const std::int64_t chunks = threads == 1 || blocks_.count >= 4 * threads ? 1 : wanted;
    chunk_ = gemm::groups(gemm::groups(N, chunks), gemm::kColumns) * gemm::kColumns;
    const std::int64_t chunk_count = N == 0 ? 0 : gemm::groups(N, chunk_);
    parallel(blocks_.count * chunk_count, threads, [&](auto next) {
      static thread_local gemm::Scratch room;
      for (std::int64_t i = next(); i < blocks_.count * chunk_count; i = next()) {
        block(i / chunk_count, (i % chunk_count) * chunk_, room);
      }
    });
  }

 private:
  // Rows of one block, columns [from, from + chunk_).
  void block(std::int64_t index, std::int64_t from, gemm::Scratch& scratch) {
    const auto [M, N, K, R] = f_.size;
    const std::int64_t first = blocks_.first(index), rows = blocks_.size(index);
    const std::int64_t columns = std::min(chunk_, N - from);
    float* xa = scratch.take(blocks_.rows * (2 * R + K + chunk_) + gemm::kSlice * gemm::kColumns);
    float* scaled = xa + blocks_.rows * R;
    float* x_room = scaled + blocks_.rows * R;
    float* y_room = x_room + blocks_.rows * K;
    float* panel_room = y_room + blocks_.rows * chunk_;
    const gemm::A x = block_of(f_.x_MK, first, rows, K, x_room);
    Matrix y_chunk = f_.y_MN;
    y_chunk.data = typed(f_.y_MN, 0, from, [](auto* p) -> void* { return p; });
    const gemm::C y = result_of(y_chunk, first, columns, y_room);
    if (f_.bias_N.data != nullptr) start_with_bias(rows, from, columns, y);
    gemm::Slices(K).each([&](std::int64_t k, std::int64_t count, bool last) {
      gemm::each_panel(R, [&](std::int64_t r, int size) {
        gemm::multiply<gemm::Rows::kApart>(rows, from_column(x, k), panel_at(a_panels_, r, K, k),
                                           count, {}, {xa + r, R, size, k > 0});
      });
      if (last) {
        for (std::int64_t i = 0; i < rows * R; ++i) scaled[i] = f_.scale * xa[i];
      }
      gemm::each_panel(columns, [&](std::int64_t n, int size) {
        const gemm::B panel = weight_panel(f_.weight, from + n, K, k, count, panel_room);
        const gemm::Tail tail{{scaled, R}, panel_at(b_panels_, from + n, R, 0), last ? R : 0};
        const bool accumulate = k > 0 || f_.bias_N.data != nullptr;
        gemm::multiply<gemm::Rows::kApart>(rows, from_column(x, k), panel, count, tail,
                                           at_column(y, n, size, accumulate));
      });
    });
    round_block(y_chunk, first, rows, columns, y_room);
    if (from == 0) std::copy_n(xa, rows * R, f_.xa_MR + first * R);
  }

  void start_with_bias(std::int64_t rows, std::int64_t from, std::int64_t columns,
                       const gemm::C& y) const {
    typed(f_.bias_N, 0, from, [&](auto* bias) {
      for (std::int64_t i = 0; i < rows; ++i) {
        for (std::int64_t n = 0; n < columns; ++n) y.data[i * y.stride + n] = widen(bias[n]);
      }
    });
  }

  const Forward& f_;
  Blocks blocks_;
  std::int64_t chunk_ = 0;
  float* a_panels_ = nullptr;
  float* b_panels_ = nullptr;
};

}  // namespace
}  // namespace crucible::lora_linear::cpu
