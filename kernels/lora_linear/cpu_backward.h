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
                [&](const Linear& linear, const Update& u) {
                  return numel_b(linear, u) + (a_stays(u) ? 0 : gemm::panels_numel(pass.K, u.R));
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
      if (!b_stays(u)) pack_straight(u.lora_b_NR, linear.N, u.R, to);
      if (!a_stays(u)) pack_straight(u.lora_a_RK, u.R, p_.K, to + numel_b(linear, u));
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
    float* sums;    // [rows, kColumns]
    float* scaled;  // s x A^T, [rows, R]
    float* alone;   // dA or dB^T of an update that one block has whole
    std::vector<Addend> addends;
  };

  Room take(gemm::Scratch& memory) const {
    const std::int64_t rows = shares_.most_rows();
    const auto layers = static_cast<std::int64_t>(p_.linears.size());
    const std::int64_t wide = rows * p_.K, panel = gemm::kSlice * gemm::kColumns;
    const std::int64_t sums = rows * gemm::kColumns, scaled = rows * rank_;
    Room room{};
    room.dyb = memory.take(layers * rows * rank_ + rows * columns_ + (drops_ ? 2 : 1) * wide +
                           panel + sums + scaled + rank_ * std::max(p_.K, columns_));
    room.dy = room.dyb + layers * rows * rank_;
    room.wide = room.dy + rows * columns_;
    room.seen = room.wide + wide;
    room.panel = drops_ ? room.seen + wide : room.seen;
    room.sums = room.panel + panel;
    room.scaled = room.sums + sums;
    room.alone = room.scaled + scaled;
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
    const Operand b = operand_of(u.lora_b_NR, N, u.R, u.rows, panels_.of(l, part.update));
    gemm::Slices(N).each([&](std::int64_t n, std::int64_t count, bool) {
      gemm::each_panel(u.R, [&](std::int64_t r, int size) {
        gemm::multiply<gemm::Rows::kApart>(part.rows, from(dy, 0, n),
                                           b.at(r, n, size, count, nullptr), count, {},
                                           {dyb + r, u.R, size, n > 0});
      });
    });
    for (std::int64_t i = 0; i < part.rows * u.R; ++i) dyb[i] *= u.scale;
  }

  void add_dx(std::size_t l, const Block& block, const gemm::A& dy, const gemm::C& dx,
              Room& room) const {
    const Linear& linear = p_.linears[l];
    const bool begun = add_seen(l, block, dx, room) || l > 0;
    find_addends(l, block, room);
    as_operand(linear.y_MN, linear.weight, block.first, linear.N, dy,
               [&](const auto& rows) { add_dyw(linear, block, rows, dx, begun, room); });
  }

  // dy W and what the updates add, dy in either form.
  template <typename Dy>
  void add_dyw(const Linear& linear, const Block& block, const Dy& dy, const gemm::C& dx,
               bool begun, const Room& room) const {
    gemm::Slices(linear.N).each([&](std::int64_t n, std::int64_t count, bool last) {
      gemm::each_panel(p_.K, [&](std::int64_t k, int size) {
        const auto weight = weight_panel(dy, linear.weight, k, linear.N, n, count, room.panel);
        const gemm::C to = at(dx, 0, k, size, n > 0 || begun);
        if (last) {
          multiply_with(room.addends, from(dy, 0, n), weight, count, k, to, {room.sums, nullptr});
        } else {
          gemm::multiply<gemm::Rows::kApart>(block.rows, from(dy, 0, n), weight, count, {}, to);
        }
      });
    });
  }

  // An update that drops reaches only what it saw, so it cannot ride: dx begins with it. Whether
  // one does.
  bool add_seen(std::size_t l, const Block& block, const gemm::C& dx, const Room& room) const {
    bool begun = false;
    shares_.each_part(
        block, [&](const Part& part) { begun = begun || update_of(l, part).drop.threshold != 0; });
    if (!begun) return false;
    shares_.each_part(block, [&](const Part& part) {
      const Update& u = update_of(l, part);
      float* const to = dx.data + (part.first - block.first) * dx.stride;
      if (u.drop.threshold != 0) {
        add_seen(u, part, dyb_of(l, block, part, room), a_of(l, part), to, dx.stride, l > 0, room);
      } else if (l == 0) {
        for (std::int64_t i = 0; i < part.rows; ++i) std::fill_n(to + i * dx.stride, p_.K, 0.0F);
      }
    });
    return true;
  }

  // Of one update; onto what is there already, or over it.
  void add_seen(const Update& u, const Part& part, const float* dyb, const Operand& a, float* to,
                std::int64_t stride, bool onto, const Room& room) const {
    gemm::each_panel(p_.K, [&](std::int64_t k, int size) {
      gemm::multiply<gemm::Rows::kApart>(part.rows, {dyb, u.R}, a.at(k, 0, size, u.R, nullptr), u.R,
                                         {}, {room.seen + k, p_.K, size, false});
    });
    for (std::int64_t i = 0; i < part.rows; ++i, to += stride) {
      float* const from = room.seen + i * p_.K;
      keep_seen(u.drop, part.first - u.first + i, from, p_.K, onto ? from : to);
      if (!onto) continue;
      for (std::int64_t k = 0; k < p_.K; ++k) to[k] += from[k];
    }
  }

  // What each update adds to dx.
  void find_addends(std::size_t l, const Block& block, Room& room) const {
    room.addends.clear();
    shares_.each_part(block, [&](const Part& part) {
      const Update& u = update_of(l, part);
      room.addends.push_back({part.first - block.first, part.rows, dyb_of(l, block, part, room),
                              a_of(l, part), u.drop.threshold == 0 ? u.R : 0});
    });
  }

  bool a_stays(const Update& u) const { return stays(u.lora_a_RK, p_.K, u.rows); }
  static bool b_stays(const Update& u) { return stays(u.lora_b_NR, u.R, u.rows); }

  // Of an update's panels, those of B come first.
  static std::int64_t numel_b(const Linear& linear, const Update& u) {
    return b_stays(u) ? 0 : gemm::panels_numel(u.R, linear.N);
  }

  Operand a_of(std::size_t l, const Part& part) const {
    const Update& u = update_of(l, part);
    const float* panels = panels_.of(l, part.update) + numel_b(p_.linears[l], u);
    return operand_of(u.lora_a_RK, u.R, p_.K, u.rows, panels);
  }

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
