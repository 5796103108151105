// With D = dy B:  dx = dy W + s D A,  dB = s dy^T (x A^T),  dA = s D^T x, over all layers.
//
// Each block of rows makes its part of all of them while its dy is in the cache. Sums over the rows
// of an update are kept by group of its blocks and added in order, so they depend on its shape, not
// on the threads nor on the updates beside it (cpu_shares.h).
#pragma once

#include "cpu_few_rows.h"
#include "cpu_shares.h"

namespace crucible::lora_linear::cpu {
namespace {

class BackwardPass {
 public:
  explicit BackwardPass(const Pass& pass)
      : p_(pass),
        shares_(pass),
        panels_(pass,
                [&](const Linear& linear, const Update& u) {
                  if (few(u)) return std::int64_t{0};
                  return gemm::panels_numel(u.R, linear.N) + gemm::panels_numel(pass.K, u.R);
                }),
        rank_(highest_rank(pass)),
        columns_(most_columns(pass)),
        wants_x_(pass.dx_MK.data != nullptr),
        wants_a_(wants_da(pass)),
        drops_(drops(pass)),
        int16_(any_int16(pass)) {}

  void run(int threads) {
    static thread_local gemm::Scratch scratch;
    float* const memory = scratch.take(panels_.numel() + shares_.kept_numel());
    kept_ = memory + panels_.numel();
    panels_.pack(memory, threads, [&](const Linear& linear, const Update& u, float* to) {
      if (few(u)) return;
      pack_straight(u.lora_b_NR, linear.N, u.R, to);
      pack_straight(u.lora_a_RK, u.R, p_.K, to + gemm::panels_numel(u.R, linear.N));
    });
    const auto items = static_cast<std::int64_t>(shares_.items().size());
    parallel(items, threads, [&](auto next) {
      static thread_local gemm::Scratch own;
      Room room = take(own);
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
      add_groups(a, sum, p_.K, u.da_RK, false);
      add_groups(a + u.R * p_.K, sum, linear.N, u.db_NR, true);
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
    float* scaled;    // s x A^T, [rows, R]
    float* alone;     // dA or dB^T of an update that one block has whole
    float* integers;  // dy as integers, where weights have that form
    std::vector<Run> runs;
  };

  Room take(gemm::Scratch& memory) const {
    const std::int64_t rows = shares_.most_rows();
    const auto layers = static_cast<std::int64_t>(p_.linears.size());
    const std::int64_t wide = rows * p_.K, panel = gemm::kSlice * gemm::kColumns;
    const std::int64_t scaled = rows * rank_;
    Room room{};
    room.dyb = memory.take(layers * rows * rank_ + rows * columns_ + (drops_ ? 2 : 1) * wide +
                           panel + scaled + rank_ * std::max(p_.K, columns_) +
                           (int16_ ? int16_numel(rows, columns_) : 0));
    room.dy = room.dyb + layers * rows * rank_;
    room.wide = room.dy + rows * columns_;
    room.seen = room.wide + wide;
    room.panel = drops_ ? room.seen + wide : room.seen;
    room.scaled = room.panel + panel;
    room.alone = room.scaled + scaled;
    room.integers = room.alone + rank_ * std::max(p_.K, columns_);
    return room;
  }

  void run_block(std::size_t index, Room& room) const {
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

  // dB^T (+)= (s x A^T)^T dy.
  void sum_db(std::size_t l, const Part& part, const gemm::A& dy, const Room& room) const {
    const std::int64_t N = p_.linears[l].N;
    const Update& u = update_of(l, part);
    if (u.db_NR.data == nullptr) return;
    const float* xa = u.xa + (part.first - u.first) * u.R;
    for (std::int64_t i = 0; i < part.rows * u.R; ++i) room.scaled[i] = u.scale * xa[i];
    if (few(u)) return outer(part.rows, dy, N, {room.scaled, u.R}, u.R, u.db_NR);
    float* const sums = part.alone ? room.alone : kept(l, part) + u.R * p_.K;
    sum_rows(u.R, room.scaled, dy, N, part, {sums, N, gemm::kColumns, part.accumulate}, room);
    if (!part.alone) return;
    for (std::int64_t n = 0; n < N; ++n) {
      typed(u.db_NR, n, 0, [&](auto* row) {
        for (std::int64_t r = 0; r < u.R; ++r) put_rounded(row[r], sums[r * N + n]);
      });
    }
  }

  // dA (+)= (s dy B)^T x, of x what the update sees.
  void sum_da(std::size_t l, const Part& part, const gemm::A& x, const float* dyb,
              const Room& room) const {
    const Update& u = update_of(l, part);
    if (u.da_RK.data == nullptr) return;
    const gemm::A wide = seen(u.drop, x, part.first - u.first, part.rows, p_.K, room.seen);
    if (few(u)) return outer(part.rows, {dyb, u.R}, u.R, wide, p_.K, u.da_RK);
    gemm::C da{kept(l, part), p_.K, gemm::kColumns, part.accumulate};
    if (part.alone) da = result_of(u.da_RK, 0, p_.K, room.alone);
    sum_rows(u.R, dyb, wide, p_.K, part, da, room);
    if (part.alone) round_block(u.da_RK, 0, u.R, p_.K, room.alone);
  }

  // C[R, columns] (+)= low^T wide over the rows of a part, low of [rows, R].
  void sum_rows(std::int64_t R, const float* low, const gemm::A& wide, std::int64_t columns,
                const Part& part, const gemm::C& c, const Room& room) const {
    gemm::each_panel(columns, [&](std::int64_t n, int size) {
      gemm::B panel{wide.data + n, wide.stride};
      if (size % gemm::kWidth != 0) {  // a tile would read beyond the last row
        gemm::pack_rows(panel.data, panel.step, part.rows, size, room.panel);
        panel = {room.panel, gemm::kColumns};
      }
      gemm::multiply<gemm::Rows::kTogether>(R, {low, R}, panel, part.rows, {},
                                            at(c, 0, n, size, c.accumulate));
    });
  }

  // Where a part's gradients are summed for its group: dA first, then dB^T.
  float* kept(std::size_t l, const Part& part) const {
    return kept_ + part.kept + shares_.offset(l, part.update);
  }

  // s dy B.
  void fill_dyb(std::size_t l, const Part& part, const gemm::A& dy, float* dyb) const {
    const Update& u = update_of(l, part);
    if (u.da_RK.data == nullptr && !wants_x_) return;
    const std::int64_t N = p_.linears[l].N;
    if (few(u)) {
      typed(u.lora_b_NR, 0, 0, [&](auto* b) {
        product<1, kChains>(part.rows, dy, b, u.lora_b_NR.stride, N, u.R, dyb, u.R, false);
      });
    } else {
      const float* const b = panels_.of(l, part.update);
      gemm::Slices(N, kLowSlice).each([&](std::int64_t n, std::int64_t count, bool) {
        gemm::each_panel(u.R, [&](std::int64_t r, int size) {
          gemm::multiply<gemm::Rows::kApart>(part.rows, from(dy, 0, n),
                                             gemm::panel_at(b + r * N + n * gemm::kColumns), count,
                                             {}, {dyb + r, u.R, size, n > 0});
        });
      });
    }
    for (std::int64_t i = 0; i < part.rows * u.R; ++i) dyb[i] *= u.scale;
  }

  void add_dx(std::size_t l, const Block& block, const gemm::A& dy, const gemm::C& dx,
              Room& room) const {
    const Linear& linear = p_.linears[l];
    room.runs.clear();
    shares_.each_part(block, [&](const Part& part) {
      const Update& u = update_of(l, part);
      const float* const dyb = dyb_of(l, block, part, room);
      const std::int64_t at = part.first - block.first;
      // What an update of few rows adds, dx begins with; of one that drops too, for it reaches only
      // what it saw.
      const bool begins = few(u) || u.drop.threshold != 0;
      if (begins) begin(l, part, dyb, dx.data + at * dx.stride, dx.stride, room);
      add_run(room.runs, {at, part.rows, begins || l > 0, dyb, begins ? nullptr : a_of(l, part),
                          begins ? 0 : u.R});
    });
    gemm::Int16Rows quantized_dy{};
    if (linear.weight.form == Form::kInt16)
      quantized_dy = quantized(dy, block.rows, linear.N, room.integers);
    as_operand(linear.y_MN, linear.weight, block.first, linear.N, dy, quantized_dy,
               [&](const auto& rows) { add_dyw(linear, rows, dx, room); });
  }

  // dy W and what the updates add, dy in either form.
  template <typename Dy>
  void add_dyw(const Linear& linear, const Dy& dy, const gemm::C& dx, const Room& room) const {
    gemm::Slices(linear.N).each([&](std::int64_t n, std::int64_t count, bool last) {
      gemm::each_panel(p_.K, [&](std::int64_t k, int size) {
        const auto weight = weight_panel(dy, linear.weight, k, linear.N, n, count, room.panel);
        multiply_runs(room.runs, from(dy, 0, n), weight, count, k, last, at(dx, 0, k, size, n > 0));
      });
    });
  }

  // D A of one update: onto what the layers before have made of dx, or as the first that is there.
  void begin(std::size_t l, const Part& part, const float* dyb, float* dx, std::int64_t stride,
             const Room& room) const {
    const Update& u = update_of(l, part);
    if (u.drop.threshold == 0) return add_dyba(l, part, dyb, dx, stride, l > 0);
    add_dyba(l, part, dyb, room.seen, p_.K, false);
    for (std::int64_t i = 0; i < part.rows; ++i, dx += stride) {
      float* const from = room.seen + i * p_.K;
      keep_seen(u.drop, part.first - u.first + i, from, p_.K, l > 0 ? from : dx);
      if (l == 0) continue;
      for (std::int64_t k = 0; k < p_.K; ++k) dx[k] += from[k];
    }
  }

  void add_dyba(std::size_t l, const Part& part, const float* dyb, float* to, std::int64_t stride,
                bool onto) const {
    const Update& u = update_of(l, part);
    if (few(u)) {
      return typed(u.lora_a_RK, 0, 0, [&](auto* a) {
        product<gemm::kVectors, 1>(part.rows, {dyb, u.R}, a, u.lora_a_RK.stride, u.R, p_.K, to,
                                   stride, onto);
      });
    }
    gemm::each_panel(p_.K, [&](std::int64_t k, int size) {
      gemm::multiply<gemm::Rows::kApart>(part.rows, {dyb, u.R},
                                         gemm::panel_at(a_of(l, part) + k * u.R), u.R, {},
                                         {to + k, stride, size, onto});
    });
  }

  static bool few(const Update& u) { return u.rows <= kFewRows; }

  // Panels of A, which follow those of B.
  const float* a_of(std::size_t l, const Part& part) const {
    return panels_.of(l, part.update) + gemm::panels_numel(update_of(l, part).R, p_.linears[l].N);
  }

  const Pass& p_;
  Shares shares_;
  UpdatePanels panels_;
  std::int64_t rank_;
  std::int64_t columns_;
  bool wants_x_;
  bool wants_a_;
  bool drops_;
  bool int16_;
  float* kept_ = nullptr;
};

}  // namespace
}  // namespace crucible::lora_linear::cpu
