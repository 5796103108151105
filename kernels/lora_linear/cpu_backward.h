// With D = dy B:  dx = dy W + s D A,  dB = s dy^T (x A^T),  dA = s D^T x, over all layers.
//
// Each block of rows makes its part of all of them while its dy is in the cache. Sums over the rows
// of an update are kept by group of its blocks and added in order, so they depend on its shape, not
// on the threads nor on the updates beside it (cpu_shares.h).
#pragma once

#include "cpu_shares.h"

namespace crucible::lora_linear::cpu {
namespace {

class BackwardPass {
 public:
  explicit BackwardPass(const Pass& pass)
      : p_(pass),
        shares_(pass),
        panels_(pass,
                [&](std::int64_t N, std::int64_t R) {
                  return gemm::panels_numel(R, N) + gemm::panels_numel(pass.K, R);
                }),
        rank_(highest_rank(pass)),
        columns_(most_columns(pass)),
        wants_x_(pass.dx_MK.data != nullptr),
        wants_a_(wants_da(pass)),
        drops_(drops(pass)) {}

  void run(int threads) {
    static thread_local gemm::Scratch scratch;
    float* const memory = scratch.take(panels_.numel() + shares_.kept_numel());
    kept_ = memory + panels_.numel();
    panels_.pack(memory, threads, [&](const Linear& linear, const Update& u, float* to) {
      pack_straight(u.lora_b_NR, linear.N, u.R, to);
      pack_straight(u.lora_a_RK, u.R, p_.K, to + gemm::panels_numel(u.R, linear.N));
    });
    const auto items = static_cast<std::int64_t>(shares_.items().size());
    parallel(items, threads, [&](auto next) {
      static thread_local gemm::Scratch own;
      const Room room = take(own);
      for (std::int64_t i = next(); i < items; i = next()) {
        const auto& [begin, end] = shares_.items()[static_cast<std::size_t>(i)];
        for (std::size_t block = begin; block < end; ++block) run_block(block, room);
      }
    });
    const std::vector<Sum>& sums = shares_.sums();
    parallel_for(static_cast<std::int64_t>(sums.size()), threads, [&](std::int64_t i) {
      const Sum& sum = sums[static_cast<std::size_t>(i)];
      const Linear& linear = p_.linears[sum.linear];
      const Update& u = linear.updates[sum.update];
      const float* a = kept_ + sum.kept;
      finish_a(u, a, sum.stride, sum.groups, sum.r, sum.r + 1);
      finish_b(linear, u, a + u.R * p_.K, sum.stride, sum.groups, sum.r, sum.r + 1);
    });
  }

 private:
  // What a thread works in.
  struct Room {
    float* dyb;   // of each layer, [rows, R]
    float* dy;    // [rows, N]
    float* wide;  // [rows, K]: dx, then x
    float* seen;  // [rows, K]: what an update adds to dx or sees of x
    float* panel;
    float* alone;  // dA and dB of an update that one block has whole
  };

  Room take(gemm::Scratch& memory) const {
    const std::int64_t rows = shares_.most_rows();
    const auto layers = static_cast<std::int64_t>(p_.linears.size());
    const std::int64_t wide = rows * p_.K;
    Room room{};
    room.dyb = memory.take(layers * rows * rank_ + rows * columns_ + (drops_ ? 2 : 1) * wide +
                           gemm::kSlice * gemm::kColumns + rank_ * (p_.K + columns_));
    room.dy = room.dyb + layers * rows * rank_;
    room.wide = room.dy + rows * columns_;
    room.seen = room.wide + wide;
    room.panel = drops_ ? room.seen + wide : room.seen;
    room.alone = room.panel + gemm::kSlice * gemm::kColumns;
    return room;
  }

  void run_block(std::size_t index, const Room& room) const {
    const Block& block = shares_.blocks()[index];
    const gemm::C dx = result_of(p_.dx_MK, block.first, p_.K, room.wide);
    for (std::size_t l = 0; l < p_.linears.size(); ++l) {
      const Linear& linear = p_.linears[l];
      const gemm::A dy = block_of(linear.y_MN, block.first, block.rows, linear.N, room.dy);
      shares_.each_part(block, [&](const Part& part) {
        sum_db(l, part, from(dy, part.first - block.first, 0), room);
        fill_dyb(l, part, from(dy, part.first - block.first, 0), dyb_of(l, block, part, room));
      });
      if (wants_x_) add_dx(l, block, dy, dx, room);
    }
    if (wants_x_) round_block(p_.dx_MK, block.first, block.rows, p_.K, room.wide);
    if (!wants_a_) return;
    const gemm::A x = block_of(p_.x_MK, block.first, block.rows, p_.K, room.wide);
    for (std::size_t l = 0; l < p_.linears.size(); ++l) {
      shares_.each_part(block, [&](const Part& part) {
        sum_da(l, part, from(x, part.first - block.first, 0), dyb_of(l, block, part, room), room);
      });
    }
  }

  float* dyb_of(std::size_t l, const Block& block, const Part& part, const Room& room) const {
    const std::int64_t row =
        static_cast<std::int64_t>(l) * shares_.most_rows() + part.first - block.first;
    return room.dyb + row * rank_;
  }

  const Update& update_of(std::size_t l, const Part& part) const {
    return p_.linears[l].updates[part.update];
  }

  // Where a part's dA, then its dB, are summed.
  float* kept_of(std::size_t l, const Part& part, const Room& room) const {
    return part.alone ? room.alone : kept_ + part.kept + shares_.offset(l, part.update);
  }

  void sum_db(std::size_t l, const Part& part, const gemm::A& dy, const Room& room) const {
    const Linear& linear = p_.linears[l];
    const Update& u = linear.updates[part.update];
    if (u.db_NR.data == nullptr) return;
    float* kept = kept_of(l, part, room) + u.R * p_.K;
    const gemm::A xa{u.xa + (part.first - u.first) * u.R, u.R};
    add_gradient(u.R, part, xa, dy, linear.N, kept, room.panel);
    if (part.alone) finish_b(linear, u, kept, 0, 1, 0, u.R);
  }

  void sum_da(std::size_t l, const Part& part, const gemm::A& x, const float* dyb,
              const Room& room) const {
    const Update& u = update_of(l, part);
    if (u.da_RK.data == nullptr) return;
    float* kept = kept_of(l, part, room);
    const gemm::A wide = seen(u.drop, x, part.first - u.first, part.rows, p_.K, room.seen);
    add_gradient(u.R, part, {dyb, u.R}, wide, p_.K, kept, room.panel);
    if (part.alone) finish_a(u, kept, 0, 1, 0, u.R);
  }

  // s dy B.
  void fill_dyb(std::size_t l, const Part& part, const gemm::A& dy, float* dyb) const {
    const Update& u = update_of(l, part);
    if (u.da_RK.data == nullptr && !wants_x_) return;
    const std::int64_t N = p_.linears[l].N;
    const float* panels = panels_.of(l, part.update);
    gemm::Slices(N).each([&](std::int64_t n, std::int64_t count, bool) {
      gemm::each_panel(u.R, [&](std::int64_t r, int size) {
        gemm::multiply<gemm::Rows::kApart>(part.rows, from(dy, 0, n), panel_at(panels, r, N, n),
                                           count, {}, {dyb + r, u.R, size, n > 0});
      });
    });
    for (std::int64_t i = 0; i < part.rows * u.R; ++i) dyb[i] *= u.scale;
  }

  void add_dx(std::size_t l, const Block& block, const gemm::A& dy, const gemm::C& dx,
              const Room& room) const {
    const Linear& linear = p_.linears[l];
    bool dropped = false;
    shares_.each_part(block, [&](const Part& part) {
      if (update_of(l, part).drop.threshold == 0) return;
      dropped = true;
      start_with_seen(l, block, part, dx, room);
    });
    gemm::Slices(linear.N).each([&](std::int64_t n, std::int64_t count, bool last) {
      gemm::each_panel(p_.K, [&](std::int64_t k, int size) {
        const gemm::B weight = weight_panel(linear.weight, k, linear.N, n, count, room.panel);
        if (!last && (n > 0 || !dropped)) {
          gemm::multiply<gemm::Rows::kApart>(block.rows, from(dy, 0, n), weight, count, {},
                                             at(dx, 0, k, size, n > 0 || l > 0));
          return;
        }
        shares_.each_part(block, [&](const Part& part) {
          const Update& u = linear.updates[part.update];
          const bool rides = last && u.drop.threshold == 0;
          const std::int64_t row = part.first - block.first;
          const gemm::Tail tail{{dyb_of(l, block, part, room), u.R},
                                panel_at(a_panels(l, part), k, u.R, 0),
                                rides ? u.R : 0};
          const bool accumulate = n > 0 || l > 0 || u.drop.threshold != 0;
          gemm::multiply<gemm::Rows::kApart>(part.rows, from(dy, row, n), weight, count, tail,
                                             at(dx, row, k, size, accumulate));
        });
      });
    });
  }

  // An update that drops reaches only what it saw, so it cannot ride: dx begins with it.
  void start_with_seen(std::size_t l, const Block& block, const Part& part, const gemm::C& dx,
                       const Room& room) const {
    const Update& u = update_of(l, part);
    const std::int64_t K = p_.K, row = part.first - block.first;
    const gemm::A dyb{dyb_of(l, block, part, room), u.R};
    gemm::each_panel(K, [&](std::int64_t k, int size) {
      gemm::multiply<gemm::Rows::kApart>(part.rows, dyb, panel_at(a_panels(l, part), k, u.R, 0),
                                         u.R, {}, {room.seen + k, K, size, false});
    });
    for (std::int64_t i = 0; i < part.rows; ++i) {
      float* const from = room.seen + i * K;
      float* const to = dx.data + (row + i) * dx.stride;
      keep_seen(u.drop, part.first - u.first + i, from, K, l == 0 ? to : from);
      if (l == 0) continue;
      for (std::int64_t k = 0; k < K; ++k) to[k] += from[k];
    }
  }

  const float* a_panels(std::size_t l, const Part& part) const {
    const Linear& linear = p_.linears[l];
    return panels_.of(l, part.update) + gemm::panels_numel(linear.updates[part.update].R, linear.N);
  }

  // sum[R, columns] (+)= low^T wide over the rows of a part: low [rows, R], wide [rows, columns].
  static void add_gradient(std::int64_t R, const Part& part, const gemm::A& low,
                           const gemm::A& wide, std::int64_t columns, float* sum, float* room) {
    gemm::each_panel(columns, [&](std::int64_t n, int size) {
      gemm::B panel{wide.data + n, wide.stride};
      if (size < gemm::kColumns) {  // a tile would read beyond the last row
        gemm::pack_rows(wide.data + n, wide.stride, part.rows, size, room);
        panel = {room, gemm::kColumns};
      }
      gemm::multiply<gemm::Rows::kTogether>(R, low, panel, part.rows, {},
                                            {sum + n, columns, size, part.accumulate});
    });
  }

  // Rows [begin, end) of dA: the groups' sums, `stride` floats apart, added in order.
  void finish_a(const Update& u, const float* kept, std::int64_t stride, std::int64_t groups,
                std::int64_t begin, std::int64_t end) const {
    if (u.da_RK.data == nullptr) return;
    for (std::int64_t r = begin; r < end; ++r) {
      typed(u.da_RK, r, 0,
            [&](auto* to) { add_groups(kept + r * p_.K, stride, groups, p_.K, 1.0F, to, 1); });
    }
  }

  // Columns [begin, end) of dB, likewise: in strips whose lines stay in the first-level cache.
  static void finish_b(const Linear& linear, const Update& u, const float* kept,
                       std::int64_t stride, std::int64_t groups, std::int64_t begin,
                       std::int64_t end) {
    if (u.db_NR.data == nullptr) return;
    constexpr std::int64_t kStrip = 64;
    typed(u.db_NR, 0, 0, [&](auto* to) {
      for (std::int64_t n = 0; n < linear.N; n += kStrip) {
        const std::int64_t count = std::min(kStrip, linear.N - n);
        for (std::int64_t r = begin; r < end; ++r) {
          add_groups(kept + r * linear.N + n, stride, groups, count, u.scale,
                     to + n * u.db_NR.stride + r, u.db_NR.stride);
        }
      }
    });
  }

  // to[i * step] = scale times the sum of the groups' element i.
  template <typename T>
  static void add_groups(const float* kept, std::int64_t stride, std::int64_t groups,
                         std::int64_t count, float scale, T* to, std::int64_t step) {
    if (groups == 1) {
      for (std::int64_t i = 0; i < count; ++i) put_rounded(to[i * step], scale * kept[i]);
      return;
    }
    for (std::int64_t i = 0; i < count; ++i) {
      float sum = 0.0F;
      for (std::int64_t g = 0; g < groups; ++g) sum += kept[g * stride + i];
      put_rounded(to[i * step], scale * sum);
    }
  }

  static void put_rounded(float& to, float x) { to = x; }
  static void put_rounded(BFloat16& to, float x) { to = round_to_nearest(x); }

  const Pass& p_;
  Shares shares_;
  UpdatePanels panels_;
  std::int64_t rank_;
  std::int64_t columns_;
  bool wants_x_;
  bool wants_a_;
  bool drops_;
  float* kept_ = nullptr;
};

}  // namespace
}  // namespace crucible::lora_linear::cpu
