// With D = dy B:  dx = dy W + s D A,  dB = s dy^T (x A^T),  dA = s D^T x.
//
// Each block of rows makes its part of all three while its dy is in the cache. Sums over rows are
// kept by group of blocks and added in order, so they depend on the shape and not on the threads.
#pragma once

#include "../common/threads.h"
#include "cpu_matrix.h"

namespace crucible::lora_linear::cpu {
namespace {

// Rows of a block: more than in the forward, for they are the reduction of dA and dB.
constexpr std::int64_t kBackwardRows = 132;
// Groups are at most so many, and what they keep takes at most so many floats.
constexpr std::int64_t kMostGroups = 64;
constexpr std::int64_t kMostKept = std::int64_t{8} << 20;

class BackwardPass {
 public:
  explicit BackwardPass(const Backward& b)
      : b_(b),
        blocks_(b.size.M, kBackwardRows),
        wants_a_(b.da_RK.data != nullptr),
        wants_b_(b.db_NR.data != nullptr) {
    const auto [M, N, K, R] = b.size;
    a_kept_ = wants_a_ ? R * K : 0;
    b_kept_ = wants_b_ ? R * N : 0;
    const std::int64_t fit = kMostKept / std::max<std::int64_t>(1, a_kept_ + b_kept_);
    const std::int64_t most = std::clamp<std::int64_t>(fit, 8, kMostGroups);
    per_group_ = gemm::groups(blocks_.count, most);
    group_count_ = per_group_ == 0 ? 0 : gemm::groups(blocks_.count, per_group_);
  }

  void run(int threads) {
    const auto [M, N, K, R] = b_.size;
    static thread_local gemm::Scratch scratch;
    const std::int64_t b_numel = gemm::panels_numel(R, N), a_numel = gemm::panels_numel(K, R);
    b_panels_ = scratch.take(b_numel + a_numel + group_count_ * (a_kept_ + b_kept_));
    a_panels_ = b_panels_ + b_numel;
    kept_ = a_panels_ + a_numel;
    pack_straight(b_.lora_b_NR, N, R, b_panels_);
    if (b_.dx_MK.data != nullptr) pack_straight(b_.lora_a_RK, R, K, a_panels_);
    parallel(group_count_, threads, [&](auto next) {
      static thread_local gemm::Scratch room;
      for (std::int64_t group = next(); group < group_count_; group = next()) {
        const std::int64_t end = std::min(blocks_.count, (group + 1) * per_group_);
        for (std::int64_t i = group * per_group_; i < end; ++i) {
          block(i, i > group * per_group_, kept_ + group * (a_kept_ + b_kept_), room);
        }
      }
    });
    if (wants_a_) parallel_for(R, threads, [&](std::int64_t r) { finish_a(r); });
    if (wants_b_) parallel_for(R, threads, [&](std::int64_t r) { finish_b(r); });
  }

 private:
  void block(std::int64_t index, bool accumulate, float* kept, gemm::Scratch& scratch) {
    const auto [M, N, K, R] = b_.size;
    const std::int64_t first = blocks_.first(index), rows = blocks_.size(index);
    float* dyb = scratch.take(blocks_.rows * (R + N + K) + gemm::kSlice * gemm::kColumns);
    float* dy_room = dyb + blocks_.rows * R;
    float* room = dy_room + blocks_.rows * N;
    float* panel_room = room + blocks_.rows * K;
    const gemm::A dy = block_of(b_.dy_MN, first, rows, N, dy_room);
    if (wants_b_) {
      add_gradient(rows, {b_.xa_MR + first * R, R}, dy, N, accumulate, kept + a_kept_, panel_room);
    }
    if (!wants_a_ && b_.dx_MK.data == nullptr) return;
    gemm::Slices(N).each([&](std::int64_t n, std::int64_t count, bool) {
      gemm::each_panel(R, [&](std::int64_t r, int size) {
        gemm::multiply<gemm::Rows::kApart>(rows, from_column(dy, n), panel_at(b_panels_, r, N, n),
                                           count, {}, {dyb + r, R, size, n > 0});
      });
    });
    for (std::int64_t i = 0; i < rows * R; ++i) dyb[i] *= b_.scale;
    if (b_.dx_MK.data != nullptr) fill_dx(first, rows, dy, dyb, room, panel_room);
    if (wants_a_) {
      const gemm::A x = block_of(b_.x_MK, first, rows, K, room);
      add_gradient(rows, {dyb, R}, x, K, accumulate, kept, panel_room);
    }
  }

  void fill_dx(std::int64_t first, std::int64_t rows, const gemm::A& dy, const float* dyb,
               float* room, float* panel_room) {
    const auto [M, N, K, R] = b_.size;
    const gemm::C dx = result_of(b_.dx_MK, first, K, room);
    gemm::Slices(N).each([&](std::int64_t n, std::int64_t count, bool last) {
      gemm::each_panel(K, [&](std::int64_t k, int size) {
        const gemm::B weight = weight_panel(b_.weight, k, N, n, count, panel_room);
        const gemm::Tail tail{{dyb, R}, panel_at(a_panels_, k, R, 0), last ? R : 0};
        gemm::multiply<gemm::Rows::kApart>(rows, from_column(dy, n), weight, count, tail,
                                           at_column(dx, k, size, n > 0));
      });
    });
    round_block(b_.dx_MK, first, rows, K, room);
  }

  // sum[R, columns] (+)= low^T wide over the rows of a block: low [rows, R], wide [rows, columns].
  void add_gradient(std::int64_t rows, const gemm::A& low, const gemm::A& wide,
                    std::int64_t columns, bool accumulate, float* sum, float* room) {
    gemm::each_panel(columns, [&](std::int64_t n, int size) {
      gemm::B panel{wide.data + n, wide.stride};
      if (size < gemm::kColumns) {  // a tile would read beyond the last row
        gemm::pack_rows(wide.data + n, wide.stride, rows, size, room);
        panel = {room, gemm::kColumns};
      }
      gemm::multiply<gemm::Rows::kTogether>(b_.size.R, low, panel, rows, {},
                                            {sum + n, columns, size, accumulate});
    });
  }

  void finish_a(std::int64_t r) {
    const std::int64_t K = b_.size.K;
    typed(b_.da_RK, r, 0, [&](auto* to) {
      for (std::int64_t k = 0; k < K; ++k) {
        float sum = 0.0F;
        for (std::int64_t g = 0; g < group_count_; ++g) sum += kept_of(g)[r * K + k];
        put_rounded(to[k], sum);
      }
    });
  }

  void finish_b(std::int64_t r) {
    const std::int64_t N = b_.size.N;
    typed(b_.db_NR, 0, r, [&](auto* to) {
      for (std::int64_t n = 0; n < N; ++n) {
        float sum = 0.0F;
        for (std::int64_t g = 0; g < group_count_; ++g) sum += kept_of(g)[a_kept_ + r * N + n];
        put_rounded(to[n * b_.db_NR.stride], b_.scale * sum);
      }
    });
  }

  const float* kept_of(std::int64_t group) const { return kept_ + group * (a_kept_ + b_kept_); }
  static void put_rounded(float& to, float x) { to = x; }
  static void put_rounded(BFloat16& to, float x) { to = round_to_nearest(x); }

  const Backward& b_;
  Blocks blocks_;
  bool wants_a_, wants_b_;
  std::int64_t a_kept_ = 0, b_kept_ = 0;  // floats that a group keeps: [R, K] and [R, N]
  std::int64_t per_group_ = 0, group_count_ = 0;
  float* b_panels_ = nullptr;
  float* a_panels_ = nullptr;
  float* kept_ = nullptr;
};

}  // namespace
}  // namespace crucible::lora_linear::cpu
